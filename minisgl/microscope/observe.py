# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:69ef1aff49ac

"""Run a function and record what the kernels that it launches do."""

import json
import operator
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import tvm_ffi

from minisgl.compile import load, targets
from minisgl.compile.build import runtime_libraries
from minisgl.microscope.findings import failed_launch, make_findings
from minisgl.microscope.records import (
    ACCESS,
    EVENT,
    Figure,
    Instruction,
    Launch,
    Memory,
    Site,
    Source,
    View,
)
from minisgl.microscope.source_lines import make_source, source_lines

_KINDS = ("load", "store", "atomic", "check")
_REPORT, _ACCESSES, _EVENTS = range(3)  # the recorder's tables
_MAX_BLOCKS = 2**20
_one_at_a_time = threading.Lock()


def observe(
    function: Callable[..., object],
    *args: object,
    undefined: Sequence[str] = (),
    blocks: int | Iterable[int] = 0,
    max_records: int = 200_000,
    **kwargs: object,
) -> View:
    """Call `function(*args, **kwargs)` and record the launches that it makes on the CPU.

    Kernels are compiled anew, with a call in front of every memory access; their source is unchanged. They run on one
    OS thread. Every access of every block is checked and counted; those of a window of blocks are kept for pictures.

    A kernel's mistake raises nothing: `findings` names it. An access outside the kernel's memory does not happen; it
    ends the launch, and so does a failure such as a divergent barrier. `error` then holds what was raised, `function`
    ends there, and nothing after it is observed, unless it catches that error.

    Limits: an order that a block passes on to a third one, through fences and atomics of a second, is not seen. A
    thread that waits in a loop for another one ends the launch as an "endless wait": threads take turns only at
    barriers and collectives. A fence of one thread before a `__syncthreads` counts for its whole block. In a structure
    that is copied whole, bytes that nobody has written count as padding.

    Args:
        function: anything that launches kernels of this package, such as `minisgl.kernel.indexing`. A kernel that it
            holds already must have been loaded with `target="microscope"`.
        args: its positional arguments; tensors on the CPU.
        undefined: names of the launcher's arguments that nobody has written yet, such as `("output",)`: to read them
            before a kernel has written them is a finding.
        blocks: whose accesses and events `View.accesses` and `View.events` keep, by linear number, in every launch.
        max_records: the most accesses, and the most events, to keep; `View.notes` says if there were more.
        kwargs: its keyword arguments.

    Returns:
        What was seen.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a tensor is on a GPU, a number is negative or too large, or `undefined` names no argument.
        RuntimeError: nothing was launched on the CPU, a kernel was not compiled for the microscope, or another
            observation is running.
        ToolchainError: g++ or addr2line is missing.
        Exception: whatever `function` raises by itself.
    """
    undefined = _checked_names(undefined)
    numbers = _checked_blocks(blocks)
    max_records = _checked_count(max_records)
    _require_on_cpu([*((f"argument {i}", arg) for i, arg in enumerate(args)), *kwargs.items()])
    if not callable(function):
        raise TypeError(f"observe: function: expected something to call, got {type(function).__name__}")
    if not _one_at_a_time.acquire(blocking=False):
        raise RuntimeError("observe: another observation is running in this process; it must end first")
    try:
        recorder = load(runtime_libraries(targets.microscope_target())[0])
        try:
            result, error = None, None
            with targets.instrumented():
                recorder.microscope_begin(
                    torch.tensor(numbers, dtype=torch.int64), max_records, _bytes("".join(f"{n}\n" for n in undefined))
                )
                try:
                    result = function(*args, **kwargs)
                except Exception as raised:
                    error = raised
                finally:
                    recorder.microscope_end()
            return _view(recorder, undefined, result, error)
        finally:
            recorder.microscope_forget()  # after an interrupt, too, wherever it came
    finally:
        _one_at_a_time.release()


def _checked_names(undefined: object) -> tuple[str, ...]:
    if isinstance(undefined, str) or not isinstance(undefined, Sequence):
        raise TypeError(f"observe: undefined: expected names of arguments, such as ('output',), got {undefined!r}")
    for name in undefined:
        if not isinstance(name, str):
            raise TypeError(f"observe: undefined: expected names of arguments, got {name!r}")
    return tuple(undefined)


def _checked_blocks(blocks: object) -> list[int]:
    one = _as_int(blocks)
    numbers = blocks if one is None else [one]
    wrong = f"observe: blocks: expected an int or several, got {blocks!r}"
    if not isinstance(numbers, Iterable):
        raise TypeError(wrong)
    ints: list[int] = []
    for number in map(_as_int, numbers):
        if number is None:
            raise TypeError(wrong)
        if not 0 <= number < 2**63:
            raise ValueError(f"observe: blocks: expected numbers of at least 0 and below 2^63, got {number}")
        if len(ints) == _MAX_BLOCKS:
            raise ValueError(f"observe: blocks: expected at most {_MAX_BLOCKS} numbers, got {blocks!r:.60}")
        ints.append(number)
    return ints


def _checked_count(max_records: object) -> int:
    number = _as_int(max_records)
    if number is None or not 0 <= number < 2**31:
        raise ValueError(f"observe: max_records: expected an int of at least 0 and below 2^31, got {max_records!r}")
    return number


def _as_int(value: object) -> int | None:
    """Return `value` as an int if it is one, or NumPy's; a bool is none."""
    try:
        return None if isinstance(value, bool | torch.Tensor) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _require_on_cpu(arguments: Iterable[tuple[str, object]]) -> None:
    for name, value in arguments:
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            raise ValueError(f"observe: {name}: expected a tensor on cpu, got one on {value.device}")


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode(errors="replace")), dtype=torch.uint8)


def _view(recorder: tvm_ffi.Module, undefined: Sequence[str], result: object, error: Exception | None) -> View:
    report = json.loads(_fetch(recorder, _REPORT).tobytes())
    failed = error is not None and any(not launch["finished"] for launch in report["launches"])
    if error is not None and not failed:
        raise error  # the function's own
    _require_observed(report["launches"])
    launches = [_launch(i, raw) for i, raw in enumerate(report["launches"])]
    memories = [_memory(i, raw) for i, raw in enumerate(report["memories"])]
    if not failed:
        _require_known(undefined, memories)
    instructions = _instructions(report["instructions"])
    findings = make_findings(report["findings"], launches, memories, instructions)
    for launch, raw in zip(launches, report["launches"], strict=True):
        if not launch.finished and not raw["explained"]:
            findings.append(failed_launch(error if launch is launches[-1] else None, launch))
    figures = [_figure(raw, memories, instructions) for raw in report["figures"]]
    sites = [_site(i, raw) for i, raw in enumerate(report["sites"])]
    accesses = _fetch(recorder, _ACCESSES).view(ACCESS)
    events = _fetch(recorder, _EVENTS).view(EVENT)
    return View(
        launches,
        memories,
        instructions,
        figures,
        findings,
        accesses,
        events,
        sites,
        report["notes"],
        result,
        error,
    )


def _fetch(recorder: tvm_ffi.Module, table: int) -> np.ndarray:
    data = torch.empty(recorder.microscope_size(table), dtype=torch.uint8)
    recorder.microscope_fetch(table, data)
    return data.numpy()


def _require_observed(launches: Sequence[Mapping[str, Any]]) -> None:
    if not launches:
        raise RuntimeError("observe: no kernel was launched on the CPU from this thread")
    for launch in launches:
        if not launch["instrumented"]:
            raise RuntimeError(
                f"observe: {launch['function'] or 'a kernel'} was compiled without the microscope's calls; load it "
                'inside the observed function, or with target="microscope"'
            )


def _require_known(undefined: Sequence[str], memories: Sequence[Memory]) -> None:
    names = {memory.name: None for memory in memories if memory.space == "global"}
    for name in undefined:
        if name not in names:
            raise ValueError(f"observe: undefined: expected names among {', '.join(names) or 'none'}, got {name!r}")


def _launch(index: int, raw: Mapping[str, Any]) -> Launch:
    grid, block = tuple(raw["grid"]), tuple(raw["block"])
    return Launch(index, raw["function"], grid, block, raw["dynamic_shared_bytes"], raw["finished"])


def _memory(index: int, raw: Mapping[str, Any]) -> Memory:
    return Memory(index, **{**raw, "shape": tuple(raw["shape"]), "strides": tuple(raw["strides"])})


def _instructions(raw: Sequence[Mapping[str, Any]]) -> list[Instruction]:
    by_library: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(raw):
        by_library[entry["library"]].append(index)
    sources: dict[int, tuple[Source, ...]] = {}
    for library, indices in by_library.items():
        sources.update(zip(indices, source_lines(library, [raw[i]["address"] for i in indices]), strict=True))
    return [
        Instruction(i, _KINDS[entry["kind"]], entry["size"], sources[i], entry["library"], entry["address"])
        for i, entry in enumerate(raw)
    ]


def _figure(raw: Mapping[str, Any], memories: Sequence[Memory], instructions: Sequence[Instruction]) -> Figure:
    return Figure(**{**raw, "instruction": instructions[raw["instruction"]], "memory": memories[raw["memory"]]})


def _site(index: int, raw: Mapping[str, Any]) -> Site:
    source = make_source(raw["file"], raw["line"])
    return Site(index, raw["function"], source.file, source.line, source.chapter)
