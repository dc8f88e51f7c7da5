"""How long a new specialisation takes to compile, and a cached one to load in a new process.

Targets: host at most 3 s, nvcc at most 8 s, a cached one at most 50 ms beyond the imports.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minisgl.compile import ToolchainError, build, cuda_target, host_target
from minisgl.kernel.index import index_wrapper
from minisgl.kernel.store import store_wrapper
from minisgl.kernel.utils import make_unit

REPEATS = 5
LOAD = """
import time, torch, tvm_ffi
from minisgl.kernel import index
start = time.perf_counter()
index.load_index_kernel(8192)
print(time.perf_counter() - start)
"""


WRAPPERS = {"index": index_wrapper(8192), "store": store_wrapper(2048, 2048)}


def compile_seconds(kernel: str, arch: str | None) -> float:
    """Compile one specialisation into an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MINISGL_CACHE_DIR"] = cache
        files = [Path(f"jit/{kernel}.cu")]
        unit = make_unit(files, [WRAPPERS[kernel]])
        target = cuda_target(arch) if arch else host_target()
        start = time.perf_counter()
        build(kernel, unit, files, target)
        return time.perf_counter() - start


def cached_load_seconds() -> list[float]:
    """Load a cached kernel in new processes, counted from the end of the imports."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"MINISGL_CACHE_DIR": cache}
        runs = [
            subprocess.run([sys.executable, "-c", LOAD], env=environment, check=True, capture_output=True, text=True)
            for _ in range(REPEATS + 1)
        ]
        return [float(run.stdout) for run in runs[1:]]


def main() -> None:
    print(f"A new specialisation (median of {REPEATS}):")
    for kernel, arch in itertools.product(WRAPPERS, (None, "sm_80", "sm_90", "sm_100")):
        try:
            seconds = [compile_seconds(kernel, arch) for _ in range(REPEATS)]
        except ToolchainError as error:
            print(f"  {kernel:6} {arch or 'host':6}  not measured: {error}")
        else:
            print(f"  {kernel:6} {arch or 'host':6}  {statistics.median(seconds):6.2f} s")
    loads = cached_load_seconds()
    print(f"A cached one in a new process, beyond the imports: {statistics.median(loads) * 1e3:.1f} ms (of {REPEATS})")


if __name__ == "__main__":
    main()
