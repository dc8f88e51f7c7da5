"""What the CPU target costs, on one thread.

Targets: a barrier or a shuffle at most 25 ns per thread; a kernel without them no slower than the bare loops over
blocks and threads; RMSNorm bf16 of 1024 x 4096 at most 3x `torch.nn.functional.rms_norm`; the microscope at most 50x
slower than the plain CPU target.
"""

import ctypes
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
import tvm_ffi

from minisgl import microscope
from minisgl.kernel import indexing
from minisgl.kernel.utils import load_jit
from minisgl.measure import interleaved_medians

FOLDER = Path(__file__).parent
NUM_BLOCKS = 1  # a sample should end within one time slice of a busy machine
NUM_ROUNDS = 32


def load() -> tvm_ffi.Module:
    names = ["barriers", "shuffles", "scale", "scale_by_hand"]
    wrappers = [(name, f"minisgl::bench::{name}") for name in names]
    return load_jit("host_target", cuda_files=[FOLDER / "host_target.cu"], cuda_wrappers=wrappers, target="host")


def load_rmsnorm(num_threads: int) -> tvm_ffi.Module:
    source = FOLDER.parent / "tests" / "host" / "rmsnorm.cu"
    wrapper = ("rmsnorm", f"minisgl::test::rmsnorm<{num_threads}>")
    return load_jit("rmsnorm", num_threads, cuda_files=[source], cuda_wrappers=[wrapper], target="host")


def wait_cost(kernels: tvm_ffi.Module, name: str, num_threads: int) -> float:
    """Return the seconds that one barrier or shuffle costs one thread.

    It is the slope between kernels with n and with 2n of them: what starts and ends a thread is in both.
    """
    output = torch.empty(NUM_BLOCKS, dtype=torch.int32)
    wait = getattr(kernels, name)
    times = interleaved_medians(
        {
            "n": lambda: wait(output, num_threads, NUM_ROUNDS),
            "2n": lambda: wait(output, num_threads, 2 * NUM_ROUNDS),
        }
    )
    return (times["2n"] - times["n"]) / (NUM_ROUNDS * NUM_BLOCKS * num_threads)


def print_waits(kernels: tvm_ffi.Module) -> None:
    print("\na barrier or shuffle, per thread")
    print(f"{'threads of a block':>20} {'__syncthreads':>15} {'__shfl_xor_sync':>17}")
    for num_threads in (128, 256, 1024):
        barrier, shuffle = (wait_cost(kernels, name, num_threads) * 1e9 for name in ("barriers", "shuffles"))
        print(f"{num_threads:20} {barrier:12.1f} ns {shuffle:14.1f} ns")


def print_plain_kernel(kernels: tvm_ffi.Module) -> None:
    print("\na kernel without barriers, one float per thread, against the same loops by hand")
    for length in (1 << 10, 1 << 16, 1 << 20):
        x, y = torch.randn(length), torch.empty(length)
        times = interleaved_medians(
            {"launch": lambda: kernels.scale(x, y, 128), "loops": lambda: kernels.scale_by_hand(x, y, 128)}  # noqa: B023
        )
        launch, loops = times["launch"], times["loops"]
        per_thread = f"{launch / length * 1e9:6.2f} ns {loops / length * 1e9:6.2f} ns a thread"
        print(f"{length:20} threads {per_thread} {launch / loops:6.2f}x")


def keep_freed_memory() -> None:
    """Make malloc use freed memory again: the page faults of a fresh output can take most of torch's time."""
    mmap_threshold, trim_threshold = -3, -1
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 32 << 20)
    libc.mallopt(trim_threshold, 1 << 30)


def print_rmsnorm() -> None:
    print("\nRMSNorm, 1024 x 4096, against torch.nn.functional.rms_norm")
    print(f"{'dtype':>10} {'threads':>8} {'ours':>11} {'torch':>11} {'ratio':>7}")
    for dtype, num_threads in itertools.product([torch.bfloat16, torch.float16, torch.float32], [32, 128]):
        x, weight, y = (
            torch.randn(1024, 4096).to(dtype),
            torch.randn(4096).to(dtype),
            torch.empty(1024, 4096, dtype=dtype),
        )
        rmsnorm = load_rmsnorm(num_threads).rmsnorm
        times = interleaved_medians(
            {
                "ours": lambda: rmsnorm(x, weight, 1e-6, y),  # noqa: B023
                "torch": lambda: torch.nn.functional.rms_norm(x, (4096,), weight, 1e-6),  # noqa: B023
            },
            repeats=11,
        )
        ours, theirs = times["ours"], times["torch"]
        name = str(dtype).removeprefix("torch.")
        print(f"{name:>10} {num_threads:8} {ours * 1e3:8.2f} ms {theirs * 1e3:8.2f} ms {ours / theirs:6.2f}x")


def print_microscope() -> None:
    """Compare with kernels that are loaded already; `observe` loads its own anew, as it always does."""
    print("\nthe microscope against the plain CPU target")
    x, weight, y = torch.randn(512, 4096).bfloat16(), torch.randn(4096).bfloat16(), torch.empty(512, 4096).bfloat16()
    table, rows, output = torch.randn(1024, 4096).half(), torch.randint(0, 1024, (256,)), torch.empty(256, 4096).half()
    rmsnorm = load_rmsnorm(128).rmsnorm
    cases: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "rmsnorm bf16, 512 x 4096": (
            lambda: rmsnorm(x, weight, 1e-6, y),
            lambda: load_rmsnorm(128).rmsnorm(x, weight, 1e-6, y),
        ),
        "indexing fp16, 256 x 4096": (
            lambda: indexing(table, rows, output=output),
            lambda: indexing(table, rows, output=output),
        ),
    }
    for name, (plain, observed) in cases.items():
        times = interleaved_medians({"plain": plain, "observed": lambda: microscope.observe(observed)}, repeats=5)  # noqa: B023
        ratio = times["observed"] / times["plain"]
        print(f"{name:>28} {times['observed'] * 1e3:8.2f} ms {times['plain'] * 1e3:8.2f} ms {ratio:6.1f}x")


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    print("one thread; medians of interleaved samples")
    kernels = load()
    print_waits(kernels)
    print_plain_kernel(kernels)
    print_rmsnorm()
    print_microscope()


if __name__ == "__main__":
    main()
