"""What could never end on a GPU ends with a RuntimeError on the CPU target, which names the threads and their lines."""

import faulthandler
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import tvm_ffi

from minisgl.compile.machine_code import machine_code
from minisgl.kernel.utils import load_jit, make_unit

SOURCE = Path(__file__).with_name("failures.cu")
KERNELS = [
    "half_returns",
    "two_barriers",
    "barrier_and_shuffle",
    "mismatched",
    "destructor",
    "bad_width",
    "missing_lane",
    "returned_lane",
    "unnamed_lane",
    "not_in_own_mask",
    "masks_never_match",
    "uneven_loop",
    "healthy",
]
FUNCTIONS = [
    *((name, f"minisgl::test::launch<minisgl::test::{name}_kernel>") for name in KERNELS),
    ("one_block_fails", "minisgl::test::one_block_fails"),
    ("dynamic_shared", "minisgl::test::dynamic_shared"),
]
LINES = {
    match[1]: f"failures.cu:{number}"
    for number, line in enumerate(SOURCE.read_text().splitlines(), 1)
    if (match := re.search(r"// HERE: (\w+)$", line))
}
# By kernel: threads of the block, and what the message says. {name} stands for file:line of `// HERE: name`.
MESSAGES = {
    "half_returns": (
        64,
        "divergent barrier: in block (0, 0, 0), 32 threads (0-31) wait at __syncthreads (tests/host/{half_returns}); "
        "32 threads (32-63) have returned",
    ),
    "two_barriers": (
        64,
        "divergent barrier: in block (0, 0, 0), 48 threads (0-47) wait at __syncthreads (tests/host/{first_barrier}); "
        "16 threads (48-63) wait at __syncthreads (tests/host/{second_barrier})",
    ),
    "barrier_and_shuffle": (
        64,
        "divergent barrier: in block (0, 0, 0), "
        "63 threads (0-39, 41-63) wait at __syncthreads (tests/host/{barrier_of_the_rest}); "
        "1 thread (40) waits at __shfl_sync (tests/host/{lonely_shuffle}) for lanes 0xffffffff",
    ),
    "mismatched": (
        32,
        "mismatched collectives: in block (0, 0, 0), "
        "16 threads (0, 2, 4, 6, ...) wait at __any_sync (tests/host/{even_lanes}) for lanes 0xffffffff; "
        "16 threads (1, 3, 5, 7, ...) wait at __all_sync (tests/host/{odd_lanes}) for lanes 0xffffffff",
    ),
    "destructor": (
        64,
        "divergent barrier: in block (0, 0, 0), 32 threads (0-31) wait at __syncthreads (tests/host/{destructor}); "
        "32 threads (32-63) have returned",
    ),
    "bad_width": (
        32,
        "calls __shfl_sync (tests/host/{bad_width}) with width 24, which is none of 1, 2, 4, 8, 16 and 32",
    ),
    "missing_lane": (
        16,
        "reads lane 20 in __shfl_sync (tests/host/{missing_lane}), which the block does not have",
    ),
    "returned_lane": (
        32,
        "reads lane 31 in __shfl_sync (tests/host/{returned_lane}), which has returned",
    ),
    "unnamed_lane": (
        32,
        "in __shfl_down_sync (tests/host/{unnamed_lane}), which mask 0x0000ffff does not name",
    ),
    "not_in_own_mask": (
        32,
        "calls __ballot_sync (tests/host/{not_in_own_mask}) with mask 0x0000ffff, which does not name it",
    ),
    "masks_never_match": (
        32,
        "deadlock: in block (0, 0, 0), "
        "1 thread (0) waits at __any_sync (tests/host/{masks_never_match}) for lanes 0x00000003; "
        "1 thread (1) waits at __any_sync (tests/host/{masks_never_match}) for lanes 0x00000007; "
        "30 threads (2-31) have returned",
    ),
    "uneven_loop": (
        96,
        "divergent barrier: in block (0, 0, 0), 64 threads (32-95) wait at __syncthreads (tests/host/{uneven_loop}); "
        "32 threads (0-31) have returned",
    ),
}


@pytest.fixture(autouse=True)
def never_hang() -> Iterator[None]:
    """End the process after a minute: a kernel that waits for ever can't be interrupted."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def kernels() -> tvm_ffi.Module:
    return load_jit("failures", cuda_files=[SOURCE], cuda_wrappers=FUNCTIONS, target="host")


def assert_healthy(kernels: tvm_ffi.Module) -> None:
    output = torch.zeros(96, dtype=torch.int32)
    kernels.healthy(output)
    assert output.tolist() == [thread ^ 1 for thread in range(96)]


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffle:3"])
@pytest.mark.parametrize("name", MESSAGES)
def test_failure(kernels: tvm_ffi.Module, monkeypatch: pytest.MonkeyPatch, name: str, order: str) -> None:
    monkeypatch.setenv("MINISGL_HOST_ORDER", order)
    num_threads, message = MESSAGES[name]
    for _ in range(2):  # the launch after a failed one works, and fails in the same way
        with pytest.raises(RuntimeError, match=rf"^{name}: .*{re.escape(message.format(**LINES))}"):
            getattr(kernels, name)(torch.zeros(num_threads, dtype=torch.int32))
        assert_healthy(kernels)


def test_failing_block_is_named(kernels: tvm_ffi.Module) -> None:
    message = f"in block (1, 2, 0), 59 threads (5-63) wait at __syncthreads (tests/host/{LINES['one_block_fails']})"
    with pytest.raises(RuntimeError, match=re.escape(message)):
        kernels.one_block_fails(torch.zeros(1))
    assert_healthy(kernels)


@pytest.mark.parametrize("num_bytes", [227 * 1024 + 1, 1 << 20, 1 << 40])
def test_too_much_dynamic_shared_memory(kernels: tvm_ffi.Module, num_bytes: int) -> None:
    kernels.dynamic_shared(torch.zeros(1), 227 * 1024)
    with pytest.raises(RuntimeError, match=rf"dynamic_shared: .*{num_bytes} bytes of dynamic shared memory"):
        kernels.dynamic_shared(torch.zeros(1), num_bytes)
    assert_healthy(kernels)


def test_too_much_static_shared_memory() -> None:
    """Nvcc allows 48 KiB, and refuses more when it compiles."""
    function = "minisgl::test::launch<minisgl::test::static_shared_kernel>"
    with pytest.raises(RuntimeError, match="expected at most 49152 bytes of static __shared__ memory, got 262144"):
        load_jit("failures", cuda_files=[SOURCE], cuda_wrappers=[("run", function)], target="host").run(
            torch.zeros(32, dtype=torch.int32)
        )


@pytest.mark.skipif(
    "address" in os.environ.get("MINISGL_SANITIZE", ""),
    reason="AddressSanitizer keeps freed memory; the plain run counts",
)
def test_many_failures_keep_no_memory(kernels: tvm_ffi.Module) -> None:
    """An abandoned thread's stack is used again by the next launch."""
    output = torch.zeros(64, dtype=torch.int32)

    def resident_kib() -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]

    def fail(times: int) -> int:
        for _ in range(times):
            with pytest.raises(RuntimeError):
                kernels.two_barriers(output)
        return resident_kib()

    before = fail(50)
    assert fail(1000) < before + 2048


def test_compiled_by_nvcc() -> None:
    assert machine_code("failures", make_unit([SOURCE], FUNCTIONS), [SOURCE], "sm_90")
