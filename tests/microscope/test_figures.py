"""Sectors, banks and bytes against sets counted in Python from the addresses alone."""

import re
from pathlib import Path

import pytest
import torch
import tvm_ffi

from minisgl import microscope
from minisgl.kernel import indexing
from minisgl.kernel.utils import load_jit

SOURCE = Path(__file__).with_name("figures.cu")
WIDTHS = {"uint8_t": 1, "uint16_t": 2, "float": 4, "float2": 8, "float4": 16}
WRAPPERS = (
    [(f"gather_{name}", f"minisgl::test::gather<{name}>") for name in WIDTHS]
    + [(f"gather_{name}", f"minisgl::test::gather<minisgl::test::{name}>") for name in ("Triple", "Block")]
    + [(f"shared_gather_{name}", f"minisgl::test::shared_gather<{name}>") for name in WIDTHS]
    + [(f"transpose_{padding}", f"minisgl::test::transpose<{padding}>") for padding in (0, 1)]
    + [("uneven", "minisgl::test::uneven")]
)
GENERATOR = torch.Generator().manual_seed(0)
PATTERNS = {
    "neighbours": torch.arange(96),
    "backwards": torch.arange(96).flip(0),
    "every second": 2 * torch.arange(96),
    "every 33rd": 33 * torch.arange(96) % 1024,
    "one for all": torch.full((96,), 5),
    "pairs": torch.arange(96) // 2,
    "one off": torch.arange(96) + 1,
    "random": torch.randint(0, 1024, (96,), generator=GENERATOR),
    "partial warp": torch.arange(41),
    "one thread": torch.tensor([3]),
}


def load() -> tvm_ffi.Module:
    return load_jit("figures_test", cuda_files=[SOURCE], cuda_wrappers=WRAPPERS, target="host")


def observe(name: str, *args: object) -> microscope.View:
    def launch(*args: object) -> None:
        getattr(load(), name)(*args)

    view = microscope.observe(launch, *args)
    assert [str(finding) for finding in view.findings] == []
    return view


def figure(view: microscope.View, text: str, kind: str = "load", memory: str = "") -> microscope.Figure:
    """Return the one figure of an instruction of the line that holds `text`."""
    found = [
        f
        for f in view.figures
        if text in SOURCE.read_text().splitlines()[f.instruction.source.line - 1]
        and f.instruction.kind == kind
        and memory in f.memory.name
    ]
    assert len(found) == 1
    return found[0]


def sectors(addresses: list[int], width: int) -> tuple[int, int, int]:
    """Return sectors, the fewest that would do, and distinct bytes of one request."""
    touched = {address + i for address in addresses for i in range(width)}
    return len({byte // 32 for byte in touched}), -(-len(touched) // 32), len(touched)


def wavefronts(offsets: list[int], width: int) -> tuple[int, int]:
    """Return passes through the banks, and the fewest that would do, of one request; `offsets` by lane."""
    lanes_per_pass = 32 * 4 // max(width, 4)
    passes = ideal = 0
    for first in range(0, len(offsets), lanes_per_pass):
        words = {(o + i) // 4 for o in offsets[first : first + lanes_per_pass] for i in range(0, max(width, 1), 4)}
        passes += max(sum(word % 32 == bank for word in words) for bank in range(32))
        ideal += -(-len(words) // 32)
    return passes, ideal


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", WIDTHS)
def test_sectors_of_a_load(name: str, pattern: str) -> None:
    width, indices = WIDTHS[name], PATTERNS[pattern].int()
    num_threads = 64
    memory = torch.zeros(1024 * width + 64, dtype=torch.uint8)
    data = memory[-memory.data_ptr() % 32 :][: 1024 * width]
    got = figure(
        observe(f"gather_{name}", torch.zeros_like(indices), data, indices, num_threads), "// the pattern", memory="1"
    )

    requests = [
        block[warp : warp + 32].tolist() for block in indices.split(num_threads) for warp in range(0, len(block), 32)
    ]
    counted = [sectors([data.data_ptr() + i * width for i in lanes], width) for lanes in requests]
    assert (got.accesses, got.bytes, got.requests) == (len(indices), len(indices) * width, len(requests))
    assert (got.sectors, got.ideal_sectors, got.bytes_needed) == tuple(map(sum, zip(*counted, strict=True)))
    assert got.bytes_moved == 32 * got.sectors
    assert got.efficiency == got.ideal_sectors / got.sectors
    assert (got.wavefronts, got.bank_conflicts) == (0, 0)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", WIDTHS)
def test_banks_of_a_load(name: str, pattern: str) -> None:
    width, indices = WIDTHS[name], PATTERNS[pattern].int()
    got = figure(
        observe(f"shared_gather_{name}", torch.zeros_like(indices), indices), "// the shared pattern", memory="values"
    )
    counted = [wavefronts([i * width for i in lanes], width) for lanes in map(torch.Tensor.tolist, indices.split(32))]
    assert (got.wavefronts, got.ideal_wavefronts) == tuple(map(sum, zip(*counted, strict=True)))
    assert got.bank_conflicts == got.wavefronts - got.ideal_wavefronts
    assert got.sectors == 0


@pytest.mark.parametrize(("name", "width", "piece"), [("Triple", 12, 4), ("Block", 64, 16)])
def test_structures_are_loaded_in_pieces(name: str, width: int, piece: int) -> None:
    """As a GPU does: lane i's k-th piece and the k-th pieces beside it are one request."""
    memory = torch.zeros(32 * width + 64, dtype=torch.uint8)
    data = memory[-memory.data_ptr() % 64 :][: 32 * width]
    got = figure(
        observe(f"gather_{name}", torch.zeros(32, dtype=torch.int32), data, torch.arange(32).int(), 32),
        "// the pattern",
        memory="1",
    )
    counted = [
        sectors([data.data_ptr() + lane * width + k for lane in range(32)], piece) for k in range(0, width, piece)
    ]
    assert (got.requests, got.bytes) == (width // piece, 32 * width)
    assert (got.sectors, got.ideal_sectors, got.bytes_needed) == tuple(map(sum, zip(*counted, strict=True)))
    assert got.efficiency == {"Triple": 1 / 3, "Block": 1 / 2}[name]


def test_figures_that_everybody_knows() -> None:
    """Not from our own oracle: what the CUDA programming guide says of these patterns."""
    memory = torch.zeros(1024 * 4 + 64, dtype=torch.uint8)
    data = memory[-memory.data_ptr() % 32 :][: 1024 * 4]
    for pattern, per_warp, efficiency in [("neighbours", 4, 1.0), ("every second", 8, 0.5), ("one off", 5, 0.8)]:
        indices = PATTERNS[pattern].int()
        got = figure(
            observe("gather_float", torch.zeros_like(indices), data, indices, 64), "// the pattern", memory="1"
        )
        assert (got.requests, got.sectors, got.efficiency) == (3, 3 * per_warp, efficiency)


@pytest.mark.parametrize(("padding", "conflicts"), [(0, 31 * 32), (1, 0)])
def test_bank_conflicts_of_a_transpose(padding: int, conflicts: int) -> None:
    source = torch.randn(32, 32)
    output = torch.zeros(32, 32)
    view = observe(f"transpose_{padding}", output, source)
    assert torch.equal(output, source.T)
    column = figure(view, "// the column", memory="tile")
    assert (column.requests, column.bank_conflicts) == (32, conflicts)
    assert column.efficiency == (1 if padding else 1 / 32)
    row = figure(view, "tile[y][x] =", kind="store", memory="tile")
    assert (row.requests, row.bank_conflicts) == (32, 0)
    assert view.bytes_moved == view.bytes_needed == 2 * 4096


def test_lanes_that_leave_a_loop_early() -> None:
    source, output = torch.randn(32, 32), torch.zeros(32)
    got = figure(observe("uneven", output, source), "// the rounds")
    expected = [sum(float(source[k, i]) for k in range(i + 1)) for i in range(32)]
    torch.testing.assert_close(output, torch.tensor(expected))
    assert (got.requests, got.accesses) == (32, 32 * 33 // 2)
    rounds = [[source.data_ptr() + 4 * (k * 32 + i) for i in range(k, 32)] for k in range(32)]
    assert got.sectors == sum(sectors(addresses, 4)[0] for addresses in rounds)


def test_rows_that_two_indices_share_are_needed_once() -> None:
    table, indices = torch.randn(100, 512), torch.tensor([5, 5, 7, 5])  # a warp per row: requests share nothing
    view = microscope.observe(indexing, table, indices)
    weights = next(memory for memory in view.memories if memory.name == "weights")
    assert weights.bytes_read == 2 * 2048
    moved = sum(f.bytes_moved for f in view.figures if f.memory.name == "weights")
    assert moved == 4 * 2048
    assert view.bytes_needed == 2 * 2048 + 4 * 8 + 4 * 2048


def test_table() -> None:
    view = observe("transpose_0", torch.zeros(32, 32), torch.randn(32, 32))
    rows = [row.split() for row in view.table().splitlines()]
    assert rows[0] == ["line", "bytes", "of", "requests", "moved", "needed", "efficiency", "bank", "conflicts"]
    column = next(row for row in rows if "tile" in row and "load" in row)
    assert column[1:] == ["load", "4", "tile", "32", "-", "4,096", "3%", "992"]
    assert re.fullmatch(r"tests/microscope/figures\.cu:\d+", column[0])
    store = next(row for row in rows if row[1] == "store" and "tile" not in row)
    assert store[-5:] == ["32", "4,096", "4,096", "100%", "-"]

    html = view.table()._repr_html_()
    assert html.count("<tr>") == len(rows)
    assert html.count("<td ") == 9 * (len(rows) - 1)
    assert re.search(f'<td style="text-align:left[^>]*>{column[0].rpartition("/")[2]}</td>', html)
    assert re.search('<td style="text-align:right[^>]*>992</td>', html)
