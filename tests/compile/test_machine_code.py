"""The same sources under nvcc, for chips this machine need not have: headers alone, and the kernels' machine code."""

import re
from functools import cache
from pathlib import Path

import pytest

from minisgl.compile import build, cuda_target, host_target, sources
from minisgl.compile.machine_code import KernelCode, machine_code
from minisgl.kernel.index import index_wrapper
from minisgl.kernel.store import store_wrapper
from minisgl.kernel.utils import KernelConfig, make_unit

ARCHS = ["sm_80", "sm_90", "sm_100"]
HEADERS = sorted(name for name in sources.headers() if name.startswith("include/"))
ALIGNED_ROWS = [512, 576, 2048, 8192, 10240]
INDEX_ROWS = [7, *ALIGNED_ROWS, 40001]
STORE_ROWS = [(7, 7), *((row, row) for row in ALIGNED_ROWS), (1152, 1024)]


@cache
def index_kernels(arch: str) -> list[KernelCode]:
    wrappers = [(f"index_{row}", index_wrapper(row)[1]) for row in INDEX_ROWS]
    return compiled("index", wrappers, arch)


@cache
def store_kernels(arch: str) -> list[KernelCode]:
    wrappers = [(f"store_{k}_{v}", store_wrapper(k, v)[1]) for k, v in STORE_ROWS]
    return compiled("store", wrappers, arch)


@cache
def unusual_store_kernels(arch: str) -> list[KernelCode]:
    """A float8 cache, pages, and both."""
    kinds = [{"to_float8": True}, {"page_size": 16}, {"to_float8": True, "page_size": 16}]
    wrappers = [(f"store_{i}", store_wrapper(2048, 2048, **kind)[1]) for i, kind in enumerate(kinds)]  # type: ignore[arg-type]
    return compiled("store", wrappers, arch)


def compiled(name: str, wrappers: list[tuple[str, str]], arch: str) -> list[KernelCode]:
    files = [Path("jit", f"{name}.cu")]
    return machine_code(name, make_unit(files, wrappers), files, arch)


def template_numbers(kernel: KernelCode) -> list[int]:
    """Return the integers among the template arguments, which the mangled name holds."""
    return [int(number) for number in re.findall(r"L[il](\d+)E", kernel.name)]


def shapes_of_16_bytes(kernels: list[KernelCode], *row_bytes: int) -> dict[int, list[KernelCode]]:
    """Return the kernels for such rows that move 16 bytes at once, by how many threads share a row."""
    found: dict[int, list[KernelCode]] = {}
    for kernel in kernels:
        *rows, vector_bytes, threads_per_row, num_threads, _ = template_numbers(kernel)
        assert num_threads == 64
        if tuple(rows[: len(row_bytes)]) == row_bytes and vector_bytes == 16:
            found.setdefault(threads_per_row, []).append(kernel)
    assert all(len(kernels) == 2 for kernels in found.values()), "int32 and int64 indices"
    return found


def require_loads_ahead(kernel: KernelCode, in_flight: int) -> None:
    """Neither a store nor the question what the slot is stands between the first load and the last."""
    loads, wide = kernel.positions("LDG"), kernel.positions("LDG.E.128")
    assert len(wide) == in_flight
    assert len(loads) == in_flight + 1, "the slot, and K and V"
    between = range(min(loads), max(wide))
    assert not [at for at in kernel.positions("ST") if at in between], "a load waits for a store"
    assert not [at for at in kernel.positions("EXIT") + kernel.positions("BRA") if at in between], (
        "a load waits for the slot"
    )
    assert max(wide) < min(kernel.positions("STG"))


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("target", ["host", "sm_90"])
def test_each_header_compiles_alone(header: str, target: str) -> None:
    unit = f"#include <{header.removeprefix('include/')}>\n"
    build("header", unit, [], host_target() if target == "host" else cuda_target(target))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_library_links_for_every_arch(arch: str) -> None:
    files = [Path("jit/index.cu")]
    unit = make_unit(files, [index_wrapper(8192)])
    assert build("index", unit, files, cuda_target(arch)).read_bytes().startswith(b"\x7fELF")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("row_bytes", "usual", "loads", "spread"),
    [(512, 8, 4, 32), (576, 8, 5, 36), (2048, 32, 4, 128), (8192, 128, 4, 512), (10240, 160, 4, 640)],
)
def test_index_loads_stand_ahead_of_the_stores(row_bytes: int, usual: int, loads: int, spread: int, arch: str) -> None:
    kernels = shapes_of_16_bytes(index_kernels(arch), row_bytes)
    assert set(kernels) == {usual, spread}, "threads that share a row"
    for threads, in_flight in ((usual, loads), (spread, 1)):
        for kernel in kernels[threads]:
            wide = kernel.positions("LDG.E.128")
            stores = kernel.positions("STG.E.128")
            assert len(wide) == in_flight
            assert not [at for at in stores if min(wide) < at < max(wide)], "a store stands between two loads"
            assert len([at for at in stores if at > max(wide)]) >= in_flight
            assert len(stores) >= 2 * in_flight  # a row is copied or set to zero, a loop perhaps more than once


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("k_bytes", "v_bytes", "usual", "loads", "spread"),
    [
        (512, 512, 16, 4, 32),
        (576, 576, 16, 6, 36),
        (2048, 2048, 64, 4, 128),
        (8192, 8192, 256, 4, 512),
        (10240, 10240, 320, 4, 640),
        (1152, 1024, 64, 3, 72),
    ],
)
def test_store_loads_of_k_and_v_stand_ahead_of_the_stores(
    k_bytes: int, v_bytes: int, usual: int, loads: int, spread: int, arch: str
) -> None:
    kernels = shapes_of_16_bytes(store_kernels(arch), k_bytes, v_bytes)
    assert set(kernels) == {usual, spread}, "threads that share a row"
    for threads, in_flight in ((usual, loads), (spread, 2)):
        for kernel in kernels[threads]:
            require_loads_ahead(kernel, in_flight)
            assert len(kernel.positions("STG.E.128")) == in_flight


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("page_size", [1, 16])
def test_float8_loads_of_k_and_v_stand_ahead_of_the_stores(page_size: int, arch: str) -> None:
    kernels = [kernel for kernel in unusual_store_kernels(arch) if "ToFloat8" in kernel.name]
    pages = [kernel for kernel in kernels if template_numbers(kernel)[2] == page_size]
    wide = [kernel for kernel in pages if template_numbers(kernel)[3] == 16]
    assert len(wide) == 8  # two index types, two dtypes, usual and spread
    for kernel in wide:
        in_flight = 4 if template_numbers(kernel)[4] == 64 else 2
        assert len(kernel.positions("STG.E.64")) == in_flight
        require_loads_ahead(kernel, in_flight)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("kernels", "count"),
    [
        # Two index types, five vector widths, and 16 bytes once more for small launches: not of rows of 7 bytes.
        (index_kernels, 12 * len(INDEX_ROWS) - 2),
        (store_kernels, 12 * len(STORE_ROWS) - 2),
        (unusual_store_kernels, 2 * 2 * 10 + 12),  # two dtypes; vectors of single bytes hold no float16
    ],
)
def test_nothing_is_spilled(kernels: object, count: int, arch: str) -> None:
    found = kernels(arch)  # type: ignore[operator]
    assert len(found) == count
    for kernel in found:
        assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0), kernel.name
        assert not kernel.positions("LDL")
        assert not kernel.positions("STL")
        assert 0 < kernel.registers <= 64, kernel.name


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kernels", [index_kernels, store_kernels, unusual_store_kernels])
def test_pdl_from_sm_90_on(kernels: object, arch: str) -> None:
    for kernel in kernels(arch):  # type: ignore[operator]
        waits = kernel.positions("ACQBULK")
        if arch == "sm_80":
            assert not waits
            assert not kernel.positions("PREEXIT")
        else:
            assert len(waits) == 1, "griddepcontrol.wait"
            assert kernel.positions("PREEXIT"), "griddepcontrol.launch_dependents"
            assert waits[0] < min(kernel.positions("LDG")), "a load before the wait could read what is not written yet"
            assert waits[0] < min(kernel.positions("ST")), "a store before the wait could harm what is still being read"


@pytest.mark.parametrize("arch", ARCHS)
def test_pdl_can_be_left_out(arch: str) -> None:
    config = KernelConfig(num_threads=64)
    wrappers = [("index", index_wrapper(2048, config)[1])]
    kernels = compiled("index", wrappers, arch)
    kernels += compiled("store", [("store", store_wrapper(2048, 2048, config)[1])], arch)
    assert len(kernels) == 24
    assert not [kernel for kernel in kernels if kernel.positions("ACQBULK") or kernel.positions("PREEXIT")]
