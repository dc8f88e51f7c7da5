"""What no kernel can beat: the device's own copies, and a kernel that does nothing."""

import itertools

import torch
from gpu_timing import Launch, replay_seconds, timed

from minisgl.compile import sources
from minisgl.kernel.utils import load_jit

COPY_BYTES = [2**exponent for exponent in range(20, 33)]  # read and written: 1 MiB to 4 GiB
MAX_COPIES = 64
SLEEP_CYCLES = 2_000_000  # about a millisecond: the CPU has queued all copies before the first one starts

EMPTY_KERNEL = """
#include <minisgl/ffi.h>
#include <minisgl/utils.cuh>
namespace bench {
template <bool kUsePDL>
__global__ void empty_kernel() {
  minisgl::wait_for_previous_kernel<kUsePDL>();
  minisgl::launch_next_kernel<kUsePDL>();
}
template <bool kUsePDL>
inline void empty(minisgl::TensorView x) {
  minisgl::LaunchKernel(1, 64, x.device()).enable_pdl(kUsePDL).template run<empty_kernel<kUsePDL>>();
}
}  // namespace bench
"""


def ceilings() -> dict[str, list[float] | dict[str, list[float]]]:
    """Return the entries of a record that every sample is compared with."""
    return {
        "copy_seconds_per_byte": [seconds / COPY_BYTES[-1] for seconds in copy_seconds(COPY_BYTES[-1])],
        "copy_seconds_by_bytes": {str(size): copy_seconds(size) for size in COPY_BYTES},
        "empty_kernel_seconds": empty_kernel_seconds(use_pdl=False),
        "empty_kernel_pdl_seconds": empty_kernel_seconds(use_pdl=True),
    }


def copy_seconds(size: int) -> list[float]:
    """Time device-to-device copies, each of which reads and writes `size` bytes in all.

    Not in a graph: there a copy becomes a node of its own kind, which is slower than what PyTorch launches. Copies of
    one size run back to back, through memory that the L2 cache cannot hold.
    """
    source = torch.ones(COPY_BYTES[-1] // 8, dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    words = size // 8
    pairs = [(target[i : i + words], source[i : i + words]) for i in range(0, len(source), words)]
    # Small copies lie apart, or they would find each other's bytes in the cache's lines and pages.
    count = min(len(pairs), MAX_COPIES)
    chosen = list(itertools.islice(itertools.cycle(pairs[:: len(pairs) // count]), count))

    def copy_all() -> None:
        for to, from_ in chosen:
            to.copy_(from_)

    samples = timed(copy_all, before=lambda: torch.cuda._sleep(SLEEP_CYCLES))
    return [float(f"{seconds / count:.4g}") for seconds in samples]


def empty_kernel_seconds(*, use_pdl: bool) -> list[float]:
    sources.set_overlay("csrc/jit/bench_empty.cu", EMPTY_KERNEL)
    wrapper = ("empty", f"bench::empty<{str(use_pdl).lower()}>")
    empty = load_jit("empty", use_pdl, cuda_files=["bench_empty.cu"], cuda_wrappers=[wrapper], target="cuda").empty
    x = torch.zeros(1, device="cuda")
    launch: Launch = lambda: empty(x)  # noqa: E731
    return replay_seconds([launch] * 400, cold=False)
