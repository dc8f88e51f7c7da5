"""What the chapters claim of `indexing` and `store_cache`: aligned rows cost the bytes they hold, wherever they lie."""

import pytest
import torch

from minisgl import microscope
from minisgl.kernel import indexing, store_cache
from minisgl.kernel.index import load_index_kernel
from minisgl.kernel.store import load_store_kernel
from minisgl.kernel.utils import KernelConfig

ROWS = [256, 512, 576, 1024, 2048, 8192]
NUM_ROWS, NUM_SLOTS = 37, 60
SPREAD = KernelConfig(num_threads=64, vectors_per_thread=1)


def aligned(rows: int, row_bytes: int) -> torch.Tensor:
    """Return random rows of float16 at a multiple of 64 bytes."""
    raw = torch.randint(0, 256, (rows * row_bytes + 64,), dtype=torch.uint8)
    return raw[-raw.data_ptr() % 64 :][: rows * row_bytes].view(torch.float16).view(rows, -1)


def slots_in(order: str) -> torch.Tensor:
    return torch.arange(NUM_ROWS) + 7 if order == "sequential" else torch.randperm(NUM_SLOTS)[:NUM_ROWS]


def require_no_waste(view: microscope.View, row_bytes: int, *, read: set[str], written: set[str]) -> None:
    """Each of these tensors has `NUM_ROWS` rows read or written once, in whole sectors."""
    assert [str(finding) for finding in view.findings] == []
    needed = NUM_ROWS * row_bytes
    moved: dict[tuple[str, str], int] = {}
    for figure in view.figures:
        if figure.memory.name in read | written:
            assert figure.efficiency == 1
            assert figure.instruction.size == 16
            assert figure.bytes == figure.bytes_needed == figure.bytes_moved
            key = (figure.instruction.kind, figure.memory.name)
            moved[key] = moved.get(key, 0) + figure.bytes_moved
    assert moved == {("load", name): needed for name in read} | {("store", name): needed for name in written}
    for memory in view.memories:
        if memory.name in read | written:
            expected = (needed, 0) if memory.name in read else (0, needed)
            assert (memory.bytes_read, memory.bytes_written) == expected


@pytest.mark.parametrize("order", ["sequential", "random"])
@pytest.mark.parametrize("row_bytes", ROWS)
def test_indexing(row_bytes: int, order: str) -> None:
    view = microscope.observe(indexing, aligned(NUM_SLOTS, row_bytes), slots_in(order), undefined=("output",))
    require_no_waste(view, row_bytes, read={"weights"}, written={"output"})


@pytest.mark.parametrize("order", ["sequential", "random"])
@pytest.mark.parametrize("row_bytes", ROWS)
def test_store_cache(row_bytes: int, order: str) -> None:
    k, v = aligned(NUM_ROWS, 2 * row_bytes).split(row_bytes // 2, dim=1)
    k_cache, v_cache = aligned(NUM_SLOTS, 2 * row_bytes).view(NUM_SLOTS, 2, -1).unbind(1)
    view = microscope.observe(store_cache, k_cache, v_cache, slots_in(order), k, v, undefined=("k_cache", "v_cache"))
    require_no_waste(view, row_bytes, read={"k", "v"}, written={"k_cache", "v_cache"})


@pytest.mark.parametrize("row_bytes", [576, 2048])
def test_a_row_spread_over_more_threads_costs_the_same(row_bytes: int) -> None:
    index_kernel = load_index_kernel(row_bytes, SPREAD, target="microscope")
    output, slots = aligned(NUM_ROWS, row_bytes), slots_in("random")
    view = microscope.observe(index_kernel, aligned(NUM_SLOTS, row_bytes), slots, output, None, None)
    require_no_waste(view, row_bytes, read={"weights"}, written={"output"})

    store_kernel = load_store_kernel(row_bytes, row_bytes, SPREAD, target="microscope")
    k_cache, v_cache, k, v = (aligned(rows, row_bytes) for rows in (NUM_SLOTS, NUM_SLOTS, NUM_ROWS, NUM_ROWS))
    view = microscope.observe(store_kernel, k_cache, v_cache, slots, k, v, 1.0, 1.0)
    require_no_waste(view, row_bytes, read={"k", "v"}, written={"k_cache", "v_cache"})


def test_skipped_tokens_write_nothing() -> None:
    k_cache, v_cache, k, v = (aligned(rows, 512) for rows in (NUM_SLOTS, NUM_SLOTS, NUM_ROWS, NUM_ROWS))
    view = microscope.observe(store_cache, k_cache, v_cache, torch.full((NUM_ROWS,), -1), k, v)
    assert view.findings == []
    assert not [figure for figure in view.figures if figure.instruction.kind == "store"]


def test_a_float8_cache_is_written_in_whole_sectors() -> None:
    """A thread stores 8 bytes of what it loaded as 16: half the bytes, and no sector in halves."""
    row_bytes = 2048
    k, v = (aligned(NUM_ROWS, row_bytes).zero_() for _ in "kv")
    k_cache, v_cache = (aligned(NUM_SLOTS, row_bytes // 2).view(torch.float8_e4m3fn) for _ in "kv")
    view = microscope.observe(store_cache, k_cache, v_cache, slots_in("random"), k, v, k_scale=1.0, v_scale=1.0)
    assert view.findings == []
    moved = {name: 0 for name in ("k", "v", "k_cache", "v_cache")}
    for figure in view.figures:
        if figure.memory.name in moved:
            assert figure.efficiency == 1
            moved[figure.memory.name] += figure.bytes_moved
    assert list(moved.values()) == [NUM_ROWS * row_bytes] * 2 + [NUM_ROWS * row_bytes // 2] * 2


ODD = [
    *((name, what) for name in ("k_cache", "v_cache") for what in ("address", "page stride", "slot stride")),
    *((name, what) for name in ("k", "v") for what in ("address", "row stride")),
]


@pytest.mark.parametrize(("odd_tensor", "odd"), [("", ""), *ODD])
def test_one_odd_address_or_stride_makes_all_vectors_narrow(odd_tensor: str, odd: str) -> None:
    """A launch has one width of vectors, the widest at which all rows are aligned."""

    def table(name: str, sizes: tuple[int, ...], strides: dict[str, int]) -> torch.Tensor:
        one_off = {what: int((name, what) == (odd_tensor, odd)) for what in ("address", *strides)}
        memory = aligned(1, 4096)[0]
        steps = [step + one_off[what] for what, step in strides.items()]
        return memory.as_strided((*sizes, 64), (*steps, 1), memory.storage_offset() + one_off["address"])

    tables = {name: table(name, (5, 3), {"page stride": 256, "slot stride": 64}) for name in ("k_cache", "v_cache")}
    tables |= {name: table(name, (7,), {"row stride": 64}) for name in ("k", "v")}
    slots = torch.tensor([14, 0, 3, -1, 7, 2, 8])
    k_cache, v_cache, k, v = tables.values()
    view = microscope.observe(store_cache, k_cache, v_cache, slots, k, v, page_size=3)
    assert view.findings == []
    sizes = {figure.instruction.size for figure in view.figures if figure.memory.name in tables}
    assert sizes == {2 if odd else 16}
    stored = slots[slots != -1]
    for cache, rows in ((k_cache, k), (v_cache, v)):
        got = cache[stored // 3, stored % 3].view(torch.uint8)
        assert torch.equal(got, rows.view(torch.uint8)[slots != -1])


def test_what_is_never_stepped_over_does_not_narrow_the_vectors() -> None:
    caches, slots = torch.zeros(2, 8, 64, dtype=torch.float16), torch.tensor([3])
    one_row = torch.ones(2, 65, dtype=torch.float16)[:1, :64]  # its stride leads to no second row
    no_values = torch.empty(1, 0, dtype=torch.float16)  # V of no width: only K is stored
    views = [
        microscope.observe(store_cache, *caches, slots, one_row, caches.new_ones(1, 64)),
        microscope.observe(store_cache, caches[0], caches[1, :, :0], slots, one_row, no_values),
        microscope.observe(indexing, one_row, torch.tensor([0])),
    ]
    for view in views:
        assert {figure.instruction.size for figure in view.figures if figure.memory.dtype == "float16"} == {16}
        assert view.findings == []
