"""Time the steps of chapter 4 on the current GPU and write a record. Kernels and timing come from the chapter's cells.

python benchmarks/gpu_warp_copy.py notebooks/measurements [COMMIT]
"""

import json
import os
import re
import sys
from pathlib import Path

from provenance import file_name, provenance

from minisgl.compile import sources

CHAPTER = Path(__file__).parents[1] / "notebooks" / "04_warps_vectors_launches.ipynb"
SCRATCH = re.compile(r"%%c\+\+ --scratch (-a )?(\S+)\n")


def run_until(name: str) -> dict[str, object]:
    """Run the chapter's Python and scratch cells until one defines `name`; return what they define."""
    os.chdir(CHAPTER.parent)
    scratch: dict[str, str] = {}
    namespace: dict[str, object] = {}
    for cell in json.loads(CHAPTER.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or source.startswith(("%load_ext", "%%c++ csrc", "%%c++ -a csrc")):
            continue
        if match := SCRATCH.match(source):
            path = f"csrc/jit/{match[2]}"
            scratch[path] = scratch.get(path, "") + source[match.end() :] + "\n"
            sources.set_overlay(path, scratch[path])
        else:
            exec(source, namespace)
        if name in namespace:
            return namespace
    raise SystemExit(f"{CHAPTER.name} defines no {name}")


def main(folder: Path, commit: str = "unknown") -> None:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    measure_steps = run_until("measure_steps")["measure_steps"]
    record = {
        "kernel": "warp_copy",
        **provenance(commit),
        "method": "CUDA graph replays over 65536 rows, GB/s read and written per replay",
        "samples": measure_steps(),  # type: ignore[operator]
    }
    (folder / file_name("warp_copy")).write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
