"""What `gpu_comm.py` has measured so far: a file that is written early and often, and tables."""

import json
import time
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import torch


class Record:
    """What has been measured so far. Only rank 0 prints and writes."""

    def __init__(self, path: Path | None, entries: dict[str, Any], start: float) -> None:
        self.path, self.start = path, start
        self.samples: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.entries = {**entries, "init_seconds": {}, "not_measured": {}, "kernels": {}}

    def say(self, text: str) -> None:
        if self.path:
            print(f"{time.time() - self.start:6.1f} s  {text}", flush=True)

    def leave_out(self, what: str, why: str) -> None:
        self.entries["not_measured"][what] = why
        self.say(f"not measured: {what}: {why}")

    def fail(self, text: str) -> None:
        self.failures.append(text)
        self.say(f"FAILED: {text}")

    def add(self, name: str, operation: str, where: str, size: int, samples: list[float]) -> None:
        seconds = [float(f"{sample:.4g}") for sample in samples]
        self.samples.append({"name": name, "operation": operation, "where": where, "bytes": size, "seconds": seconds})

    def write(self, *, complete: bool = False) -> None:
        if not self.path:
            return
        record = {
            **self.entries,
            "complete": complete,
            "failures": self.failures,
            "fits": fits(self.samples),
            "faster_through_the_buffer": faster_through_the_buffer(self.samples),
            "samples": self.samples,
        }
        aside = self.path.with_suffix(".new")
        aside.write_text(json.dumps(record) + "\n")
        aside.replace(self.path)

    def print_tables(self) -> None:
        """Print the medians in microseconds: a row for each size, a column for each contestant."""
        if not self.path:
            return
        medians = {(s["operation"], s["where"], s["name"], s["bytes"]): median(s["seconds"]) for s in self.samples}
        for operation, where in dict.fromkeys(key[:2] for key in medians if key[1] != "plain"):
            names = dict.fromkeys(key[2] for key in medians if key[:2] == (operation, where))
            print(f"{operation}, {where}, us: " + " | ".join(short(name) for name in names))
            for size in dict.fromkeys(key[3] for key in medians if key[:2] == (operation, where)):
                cells = [medians.get((operation, where, name, size)) for name in names]
                print(f"{size:>10} " + " ".join(f"{cell * 1e6:8.1f}" if cell else "       -" for cell in cells))
        for line in fits(self.samples):
            if line["where"] == "graph":
                rate = 1e-9 / max(line["seconds_per_byte"], 1e-15)
                latency = line["latency_seconds"] * 1e6
                print(f"fit {line['operation']}, {short(line['name'])}: {latency:.1f} us + bytes / {rate:.1f} GB/s")
        print("faster through the buffer:", faster_through_the_buffer(self.samples))
        print("\n".join(self.failures), flush=True)


def fits(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return latency and time per byte of each contestant."""
    points: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for sample in samples:
        if sample["where"] != "cpu":
            key = (sample["operation"], sample["name"], sample["where"])
            points.setdefault(key, []).append((sample["bytes"], median(sample["seconds"])))
    return [
        dict(zip(("operation", "name", "where"), key, strict=True)) | fit(values)
        for key, values in points.items()
        if len(values) >= 3
    ]


def fit(points: list[tuple[float, float]]) -> dict[str, float]:
    size, seconds = torch.tensor(points, dtype=torch.float64).unbind(1)
    scaled = torch.stack([1 / seconds, size / 2**20 / seconds], dim=1)  # divided by what is to be met: relative errors
    latency, per_mib = torch.linalg.lstsq(scaled, torch.ones_like(seconds)[:, None]).solution.flatten().tolist()
    return {"latency_seconds": float(f"{latency:.4g}"), "seconds_per_byte": float(f"{per_mib / 2**20:.4g}")}


def faster_through_the_buffer(samples: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the sizes at which the copies in and out pay: the experiment of the threshold."""
    medians = {(s["name"], s["where"], s["bytes"]): median(s["seconds"]) for s in samples}
    return {
        where: [
            size
            for name, its_where, size in medians
            if (name, its_where) == ("minisgl, direct", where)
            and medians.get(("minisgl, through the buffer", where, size), inf) < medians[name, where, size]
        ]
        for where in ("graph", "plain")
    }


def short(name: str) -> str:
    return name.removeprefix("minisgl, ").removeprefix("through the ")
