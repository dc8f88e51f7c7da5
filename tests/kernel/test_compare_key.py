"""`fast_compare_key` and every vector unit behind it against a loop over Python lists."""

import mmap
import platform
import random
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import build_program, run_program  # type: ignore[import-not-found]  # tests/ is on the path

from minisgl.kernel import fast_compare_key
from minisgl.kernel.radix import compare_key_with, vector_units

DTYPES = [torch.int32, torch.int64]
UNITS = ["portable", "neon", "avx2", "avx512"]
Compare = Callable[[torch.Tensor, torch.Tensor], int]


@pytest.fixture(params=["fast_compare_key", *UNITS])
def compare(request: pytest.FixtureRequest) -> Compare:
    unit = request.param
    if unit == "fast_compare_key":
        return fast_compare_key
    if unit not in vector_units():
        pytest.skip(f"this processor has no {unit}, or it goes by another name")
    return lambda x, y: compare_key_with(x, y, unit)


def oracle(x: list[int], y: list[int]) -> int:
    for i, (a, b) in enumerate(zip(x, y, strict=False)):
        if a != b:
            return i
    return min(len(x), len(y))


def random_ids(count: int, dtype: torch.dtype, seed: int = 0) -> np.ndarray:
    """Return ids of all bits, negative ones too."""
    limits = np.iinfo(str(dtype).removeprefix("torch."))
    return np.random.default_rng(seed).integers(limits.min, limits.max, count, limits.dtype, endpoint=True)


def check_differences(compare: Compare, x: np.ndarray, y: np.ndarray, positions: list[int]) -> None:
    """Let equal lists `x` and `y` differ at each of `positions`, by each bit in turn, and then beyond it too."""
    assert x.tolist() == y.tolist()
    views = torch.from_numpy(x), torch.from_numpy(y)
    assert compare(*views) == len(x)
    bits = 8 * y.itemsize
    for k in positions:
        kept = y[k:].copy()
        y[k] ^= np.array(1, y.dtype) << (k * 7 + len(x)) % bits
        expected = oracle(x.tolist(), y.tolist())
        assert expected == k
        assert compare(*views) == k, f"{len(x)} elements that differ at {k}"
        y[k + 1 :] ^= 1
        assert compare(*views) == k, f"{len(x)} elements that differ from {k} on"
        y[k:] = kept


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_short_lists(compare: Compare, dtype: torch.dtype) -> None:
    """Every length up to 300; what lies behind the end agrees, so that reading too far would show."""
    x, y = random_ids(400, dtype), random_ids(400, dtype)
    rng = random.Random(0)
    for length in range(301):
        every = list(range(length))
        positions = every if length <= 70 else sorted({0, length - 1, *rng.sample(every, 16)})
        check_differences(compare, x[3 : 3 + length], y[5 - 2 : 3 + length], positions)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_lists(compare: Compare, dtype: torch.dtype) -> None:
    x, y = random_ids(1 << 15, dtype), random_ids(1 << 15, dtype)
    rng = random.Random(1)
    lengths = {step * times + more for step in (64, 128, 512) for times in (1, 2, 3, 4, 5, 9) for more in range(-2, 3)}
    for length in [*sorted(lengths), 10_000, 32_760]:
        offset = rng.randrange(8)
        positions = {0, 1, 63, 64, 127, 128, 511, 512, length // 2, length - 1, *rng.sample(range(length), 8)}
        here = slice(offset, offset + length)
        check_differences(compare, x[here], y[here], sorted(k for k in positions if k < length))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_at_any_element(compare: Compare, dtype: torch.dtype) -> None:
    ids = random_ids(800, dtype)
    for first, second in product(range(21), repeat=2):
        x, y = np.empty(800, ids.dtype), np.empty(800, ids.dtype)
        for length in (3, 40, 130, 300, 700):
            a, b = x[first : first + length], y[second : second + length]
            a[:] = b[:] = ids[:length]
            check_differences(compare, a, b, [(first * 31 + second * 17) % length, length - 1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("first", [1, 2, 3, 5, 7, 63])
def test_views_at_odd_addresses(compare: Compare, dtype: torch.dtype, first: int) -> None:
    for second, length in product((0, 1, 6), (1, 30, 129, 600)):
        ids = random_ids(length, dtype)
        views = []
        for offset in (first, second):
            memory = bytearray(64 + ids.nbytes)
            views.append(torch.frombuffer(memory, dtype=dtype, count=length, offset=offset))
            memory[offset : offset + ids.nbytes] = ids.tobytes()
        assert views[0].data_ptr() % 2 == first % 2
        assert compare(views[0], views[1]) == length
        for k in sorted({0, length // 2, length - 1}, reverse=True):
            views[1][k] ^= 1 << 20
            assert compare(views[0], views[1]) == oracle(views[0].tolist(), views[1].tolist()) == k


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_shorter_list_ends_the_comparison(compare: Compare, dtype: torch.dtype) -> None:
    ids = torch.from_numpy(random_ids(1000, dtype))
    other = ids.clone()
    for x, y in product((0, 1, 2, 9, 64, 65, 128, 200, 511, 513, 1000), repeat=2):
        assert compare(ids[:x], other[:y]) == min(x, y)
        assert compare(ids[:x], ids[:y]) == min(x, y)  # one memory


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_lists_of_few_ids(compare: Compare, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        x, y = (rng.integers(-1, 1, rng.integers(0, 12)).astype(str(dtype)[6:]) for _ in "xy")
        common = random_ids(int(rng.integers(0, 300)), dtype)
        x, y = np.concatenate([common, x]), np.concatenate([common, y])
        assert compare(torch.from_numpy(x), torch.from_numpy(y)) == oracle(x.tolist(), y.tolist())


@pytest.mark.parametrize("length", [1, 8, 100, 600])
def test_upper_halves_and_signs_count(compare: Compare, length: int) -> None:
    ids = torch.full((length,), 5, dtype=torch.int64)
    for other in (5 + 2**32, 5 - 2**32, 5 + 2**62, 5 - 2**63, -5, 5 ^ -1):
        changed = ids.clone()
        changed[-1] = other
        assert compare(ids, changed) == length - 1
    negative = torch.full((length,), -1, dtype=torch.int32)
    changed = negative.clone()
    changed[-1] = 2**31 - 1
    assert compare(negative, changed) == length - 1
    assert compare(negative, negative.clone()) == length


def test_memory_that_cannot_be_written(compare: Compare) -> None:
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ) as memory:
        array = np.frombuffer(memory, np.int32)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # PyTorch's: it is not writable
            x = torch.from_numpy(array)
        assert compare(x, torch.zeros(2000, dtype=torch.int32)) == mmap.PAGESIZE // 4
        del x, array


def test_results_are_ints(compare: Compare) -> None:
    assert type(compare(torch.zeros(3, dtype=torch.int32), torch.zeros(3, dtype=torch.int32))) is int


def test_every_unit_of_this_processor_is_there() -> None:
    machine = platform.machine()
    if machine == "aarch64":
        assert vector_units() == ["neon"]
    elif machine != "x86_64" or sys.platform != "linux":
        assert len(vector_units()) == 1
    else:
        flags = set(Path("/proc/cpuinfo").read_text().split())
        has = {"portable": True, "avx2": "avx2" in flags, "avx512": "avx512f" in flags}
        assert vector_units() == [unit for unit, here in has.items() if here]


I32 = torch.arange(4, dtype=torch.int32)
I64 = I32.long()
STRIDED = torch.arange(8, dtype=torch.int32)[::2]


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (I32.float(), I32, TypeError, "x: expected [L] int32|int64 on cpu, contiguous, got [4] float32 on cpu"),
        (I32, I32.short(), TypeError, "y: expected [L] int32|int64 on cpu, contiguous, got [4] int16 on cpu"),
        (I32.bool(), I32, TypeError, "x: expected [L] int32|int64 on cpu, contiguous, got [4] bool on cpu"),
        (I32.to(torch.uint32), I32, TypeError, "x: expected [L] int32|int64 on cpu, contiguous, got [4] uint32 on cpu"),
        (I32, I64, TypeError, "y: expected int32 as x, got int64"),
        (I64, I32, TypeError, "y: expected int64 as x, got int32"),
        (I32.view(2, 2), I32, ValueError, "x: expected [L] int32|int64 on cpu, contiguous, got [2, 2] int32 on cpu"),
        (I64, I64[0], ValueError, "y: expected [L] int32|int64 on cpu, contiguous, got [] int64 on cpu"),
        (
            STRIDED,
            I32,
            ValueError,
            "x: expected [L] int32|int64 on cpu, contiguous, got [4] int32 on cpu with a stride of 2",
        ),
        (
            I32,
            I32[:1].expand(4),
            ValueError,
            "y: expected [L] int32|int64 on cpu, contiguous, got [4] int32 on cpu with a stride of 0",
        ),
    ],
)
def test_refusals(compare: Compare, x: torch.Tensor, y: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        compare(x, y)
    name, said = str(caught.value).split(": ", maxsplit=1)
    assert name in ("fast_compare_key", "compare_key_with")
    assert said == message


@pytest.mark.parametrize(
    ("other", "error", "got"),
    [
        ([1, 2], TypeError, "a torch.Tensor, got list"),
        (None, TypeError, "a torch.Tensor, got NoneType"),
        (I32.to("meta"), ValueError, "a tensor on cpu or cuda, got meta"),
    ],
)
def test_what_no_kernel_gets_is_refused(other: torch.Tensor, error: type[Exception], got: str) -> None:
    for name, arguments in ("x", (other, I32)), ("y", (I32, other)):
        with pytest.raises(error) as caught:
            fast_compare_key(*arguments)
        assert str(caught.value) == f"fast_compare_key: {name}: expected {got}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_tensors_of_a_gpu_are_refused(compare: Compare) -> None:
    with pytest.raises(
        ValueError, match=r"y: expected \[L\] int32\|int64 on cpu, contiguous, got \[4\] int32 on cuda:0$"
    ):
        compare(I32, I32.cuda())


def test_one_element_may_have_any_stride(compare: Compare) -> None:
    assert compare(torch.arange(8, dtype=torch.int32)[::8], I32) == 1


def test_unknown_units_are_refused() -> None:
    known = ", ".join(vector_units())
    with pytest.raises(ValueError, match=re.escape(f"compare_key_with: unit: expected one of {known}, got 'sse9'")):
        compare_key_with(I32, I32, "sse9")


@pytest.mark.parametrize("checks", [[], ["-fsanitize=undefined", "-fno-sanitize-recover=all"]], ids=["plain", "ubsan"])
@pytest.mark.parametrize("compiler", ["g++", "clang++", "aarch64-linux-gnu-g++"])
def test_other_builds(tmp_path: Path, compiler: str, checks: list[str]) -> None:
    """Every unit of a build, every pair of widths, at odd addresses, and with unreadable pages behind both arrays."""
    cross = compiler.startswith("aarch64")
    flags = ["-O3", *checks, *(["-static"] if cross else [])]
    command = [build_program(tmp_path, compiler, Path(__file__).with_name("compare_key.cpp"), flags)]
    if cross:
        emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
        if not emulator:
            pytest.skip("compiled for aarch64, but no emulator is here to run it")
        command.insert(0, Path(emulator))
    result = run_program(*command)
    assert result.returncode == 0, result.stdout + result.stderr
    units = ["neon"] if cross else vector_units()
    assert re.findall(r"^(\w+): \d{5,} comparisons$", result.stdout, re.MULTILINE) == units
