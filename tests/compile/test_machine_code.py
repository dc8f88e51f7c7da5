"""The same sources under nvcc, for chips this machine need not have: headers alone, and the kernel's machine code."""

from pathlib import Path

import pytest

from minisgl.compile import build, cuda_target, host_target, sources
from minisgl.compile.machine_code import KernelCode, machine_code
from minisgl.kernel.index import index_wrapper, num_splits
from minisgl.kernel.utils import KernelConfig, make_unit

ARCHS = ["sm_80", "sm_90", "sm_100"]
HEADERS = sorted(name for name in sources.headers() if name.startswith("include/"))


def index_kernels(row_bytes: int, arch: str, *, use_pdl: bool = False) -> list[KernelCode]:
    files = [Path("jit/index.cu")]
    unit = make_unit(files, [index_wrapper(row_bytes, num_splits(row_bytes), KernelConfig(use_pdl=use_pdl))])
    return machine_code("index", unit, files, arch)


def of_width(kernels: list[KernelCode], vector_bytes: int) -> list[KernelCode]:
    """Choose the kernels for one vector width: the template argument in front of the block size."""
    return [kernel for kernel in kernels if f"Li{vector_bytes}ELi128E" in kernel.name]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("target", ["host", "sm_90"])
def test_each_header_compiles_alone(header: str, target: str) -> None:
    unit = f"#include <{header.removeprefix('include/')}>\n"
    build("header", unit, [], host_target() if target == "host" else cuda_target(target))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_library_links_for_every_arch(arch: str) -> None:
    files = [Path("jit/index.cu")]
    unit = make_unit(files, [index_wrapper(8192, 4)])
    assert build("index", unit, files, cuda_target(arch)).read_bytes().startswith(b"\x7fELF")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("row_bytes", "loads"), [(512, 1), (2048, 1), (8192, 4), (10240, 5), (576, 2), (1536, 3)])
def test_wide_loads_stand_ahead_of_the_stores(row_bytes: int, loads: int, arch: str) -> None:
    kernels = of_width(index_kernels(row_bytes, arch), 16)
    assert len(kernels) == 2  # int32 and int64 indices
    for kernel in kernels:
        wide = kernel.positions("LDG.E.128")
        assert len(wide) == loads
        stores = kernel.positions("STG.E.128")
        assert len(stores) == 2 * loads  # a row is copied or set to zero
        assert not [at for at in stores if min(wide) < at < max(wide)], "a store stands between two loads"
        assert len([at for at in stores if at > max(wide)]) >= loads


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("row_bytes", [7, 576, 8192, 40001])
def test_nothing_is_spilled(row_bytes: int, arch: str) -> None:
    kernels = index_kernels(row_bytes, arch)
    assert len(kernels) == 10  # two index types, five vector widths
    for kernel in kernels:
        assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0)
        assert not kernel.positions("LDL")
        assert not kernel.positions("STL")
        assert 0 < kernel.registers <= 64


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("use_pdl", [False, True])
def test_pdl_from_sm_90_on(arch: str, use_pdl: bool) -> None:
    expected = int(use_pdl and arch != "sm_80")
    for kernel in index_kernels(2048, arch, use_pdl=use_pdl):
        waits = kernel.positions("ACQBULK")
        assert len(waits) == expected, "griddepcontrol.wait"
        assert len(kernel.positions("PREEXIT")) == expected, "griddepcontrol.launch_dependents"
        if waits:
            assert waits[0] < min(kernel.positions("LDG")), "a load before the wait could read what is not written yet"
