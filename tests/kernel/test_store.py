"""`store_cache` against PyTorch, bit for bit."""

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import (  # type: ignore[import-not-found]  # pytest puts this folder on the path
    FLOAT8,
    Layout,
    check,
    every_second,
    put,
    quantised,
    random_bytes,
    some_slots,
    two_tables,
)
from tables import DTYPES, random_table  # type: ignore[import-not-found]

from minisgl.kernel import store, store_cache
from minisgl.kernel.utils import KernelConfig, load_jit

SIZES = [0, 1, 5, 1000]
DIMS = {1: [1, 7, 64, 576], 2: [1, 3, 7, 64, 100, 288, 576, 4096], 4: [1, 7, 64, 576], 8: [1, 7, 64, 576]}


@pytest.mark.parametrize(("dtype", "dim"), [(dtype, dim) for dtype in DTYPES for dim in DIMS[dtype.itemsize]], ids=str)
def test_equals_torch(dtype: torch.dtype, dim: int, device: str) -> None:
    for (number, size), offset in itertools.product(enumerate(SIZES), (0, 16 // dtype.itemsize + 1)):
        num_slots = size + 9
        gap = (-num_slots * dim) % 16  # V is as aligned as K
        layout = apart(num_slots, dim, dtype, offset, gap)
        memory = random_bytes((2 * num_slots * dim + gap + offset) * dtype.itemsize // 8 * 8 + 8, device)
        assert all((cache.data_ptr() % 16 == 0) == (offset == 0) for cache in layout(memory))
        slots = some_slots(size, num_slots).to(device, (torch.int32, torch.int64)[(number + offset) % 2])
        k, v = (random_table(size, dim, dtype, device, offset) for _ in "kv")
        check(memory, layout, every_second(slots) if offset else slots, k, v)


def apart(num_slots: int, dim: int, dtype: torch.dtype, offset: int, gap: int) -> Layout:
    starts = (offset, offset + num_slots * dim + gap)
    return lambda memory: [memory.view(dtype).as_strided((num_slots, dim), (dim, 1), start) for start in starts]


def pages(memory: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return `shape` of the memory, with some elements in front."""
    return memory[8 : 8 + math.prod(shape)].view(shape)


# Caches of P pages of S slots; a row has H elements, in G heads or not.
CACHES: dict[str, Callable[[torch.Tensor, int, int, int, int], Sequence[torch.Tensor]]] = {
    "apart": lambda m, P, S, G, H: pages(m, 2, P, S, H).unbind(0),
    "interleaved by slot": lambda m, P, S, G, H: pages(m, P, S, 2, H).unbind(2),
    "interleaved by page": lambda m, P, S, G, H: pages(m, P, 2, S, H).unbind(1),
    "V in front of K": lambda m, P, S, G, H: pages(m, P, S, 2, H).unbind(2)[::-1],
    "pages of V in front of K": lambda m, P, S, G, H: pages(m, P, 2, S, H).unbind(1)[::-1],
    "gaps": lambda m, P, S, G, H: pages(m, 2, P, S + 2, H + 5)[:, :, 1 : S + 1, 2 : H + 2].unbind(0),
    "gaps, aligned": lambda m, P, S, G, H: pages(m, 2, P, S + 2, H + 16)[:, :, 1 : S + 1, :H].unbind(0),
    "neighbouring slots in other pages": lambda m, P, S, G, H: pages(m, 2, S, P, H).transpose(1, 2).unbind(0),
    "heads": lambda m, P, S, G, H: pages(m, P, 2, S, G, H // G).unbind(1),
    "heads, interleaved by slot": lambda m, P, S, G, H: pages(m, P, S, 2, G, H // G).unbind(2),
    "heads of two dimensions": lambda m, P, S, G, H: pages(m, 2, P, S, 2, G // 2, H // G).unbind(0),
    "a row of ones": lambda m, P, S, G, H: pages(m, 2, P, S, 1, H, 1).unbind(0),
}
INPUTS: dict[str, Callable[[torch.Tensor, int, int, int], Sequence[torch.Tensor]]] = {
    "apart": lambda m, L, G, H: pages(m, 2, L, H).unbind(0),
    "slices of a fused qkv": lambda m, L, G, H: pages(m, L, 4 * H).split([2 * H, H, H], dim=1)[1:],
    "heads of a fused qkv": lambda m, L, G, H: pages(m, L, 4 * G, H // G).split([2 * G, G, G], dim=1)[1:],
    "odd addresses": lambda m, L, G, H: pages(m, 2, L, H + 3)[:, :, 1 : H + 1].unbind(0),
    "one tensor": lambda m, L, G, H: [pages(m, L, 1, H)] * 2,
    "one row for all": lambda m, L, G, H: [row.expand(L, H) for row in pages(m, 2, 1, H).unbind(0)],
}
KINDS: dict[str, tuple[torch.dtype, torch.dtype, int, tuple[float, float] | None]] = {
    "float16": (torch.float16, torch.float16, 64, None),
    "uint8": (torch.uint8, torch.uint8, 20, None),
    "float16 in a float8 cache": (torch.float16, FLOAT8, 64, (0.37, 3.0)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("name", CACHES)
def test_layouts(name: str, page_size: int, kind: str, device: str) -> None:
    dtype, cache_dtype, H, scales = KINDS[kind]
    P, G = (50 if page_size == 1 else 7), 4
    num_slots, size = P * page_size, 20

    def layout(memory: torch.Tensor) -> list[torch.Tensor]:
        caches = CACHES[name](memory.view(cache_dtype), P, page_size, G, H)
        return [cache.squeeze(1) if page_size == 1 else cache for cache in caches]

    memory = random_bytes(4 * cache_dtype.itemsize * P * (page_size + 2) * (H + 16), device)
    for make_inputs in INPUTS.values():
        if dtype == torch.uint8:
            flat = random_bytes(5 * size * H, device)
        else:
            flat = torch.randn(5 * size * H, device=device).to(dtype)
        slots = some_slots(size, num_slots).to(device)
        k, v = make_inputs(flat, size, G, H)
        check(memory, layout, slots, k, v, page_size=page_size, scales=scales)


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("scales", [None, (0.75, 2.0)], ids=["bfloat16", "float8"])
def test_k_wider_than_v(scales: tuple[float, float] | None, page_size: int, device: str) -> None:
    """MLA: 512 numbers of a latent, and 64 more in K, which carry the position."""
    dtype, P, size = torch.bfloat16 if scales is None else FLOAT8, 48 // page_size, 31
    layouts: list[Layout] = [
        lambda m: m[: 48 * 1088].split([48 * 576, 48 * 512]),
        lambda m: m[: 48 * 1100].view(48, 1100)[:, :1088].split([576, 512], dim=1),
    ]
    for layout in layouts:
        memory = random_bytes(48 * 1100 * dtype.itemsize, device)
        k, v = torch.randn(size, 576 + 512, device=device).bfloat16().split([576, 512], dim=1)
        slots = some_slots(size, 48).to(device)

        def caches(memory: torch.Tensor, layout: Layout = layout) -> list[torch.Tensor]:
            k_cache, v_cache = layout(memory.view(dtype))
            both = [(k_cache, 576), (v_cache, 512)]
            return [c.view(P, page_size, n).squeeze(1) if page_size == 1 else c.view(P, page_size, n) for c, n in both]

        check(memory, caches, slots, k, v, page_size=page_size, scales=scales)


@pytest.mark.parametrize("where", ["first", "last", "all but one", "everywhere"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_skipped_tokens(where: str, dtype: torch.dtype, device: str) -> None:
    slots = some_slots(9, 20, skipped=0)
    skipped = {"first": slice(0, 1), "last": slice(8, 9), "all but one": slice(1, 9), "everywhere": slice(0, 9)}
    slots[skipped[where]] = -1
    k, v = (random_table(9, 64, torch.float16, device) for _ in "kv")
    check(random_bytes(2 * 20 * 128, device), two_tables(20, 64, torch.float16), slots.to(device, dtype), k, v)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("page_size", [1, 3])
def test_the_kernel_skips_slots_out_of_range(dtype: torch.dtype, page_size: int, unchecked: str) -> None:
    info = torch.iinfo(dtype)
    slots = torch.tensor([info.min, -7, -2, -1, 5, 6, 7, 11, info.max], dtype=dtype, device=unchecked)
    memory = torch.zeros(4, 6, 64, dtype=torch.float16, device=unchecked)
    k_cache, v_cache = memory[1:3] if page_size == 1 else memory[1:3].view(2, 2, 3, 64)
    k = torch.arange(1, 10, device=unchecked).half()[:, None].repeat(1, 64)
    store_cache(k_cache, v_cache, slots, k, 2 * k, page_size=page_size)
    assert memory[1, 5].eq(5).all()
    assert memory[2, 5].eq(10).all()
    assert memory.count_nonzero() == 2 * 64


@pytest.mark.parametrize("shape", [(0, 64), (4, 0), (0, 0), (0, 2, 32)], ids=str)
@pytest.mark.parametrize("size", [0, 3])
def test_empty_caches_and_rows(shape: tuple[int, ...], size: int, device: str) -> None:
    k_cache, v_cache = (torch.empty(shape, dtype=torch.float16, device=device) for _ in "kv")
    k = torch.ones((size, *shape[1:]), dtype=torch.float16, device=device)
    store_cache(k_cache, v_cache, torch.full((size,), -1, device=device), k, k)
    half_empty = torch.zeros(4, 64, dtype=torch.float16, device=device)
    store_cache(half_empty, half_empty[:, :0], torch.tensor([2], device=device), half_empty[:1] + 1, half_empty[:1, :0])
    assert half_empty.sum(1).tolist() == [0, 0, 64, 0]


@pytest.mark.parametrize("dim", [64, 576])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_slot_that_comes_twice(dim: int, scale: float | None, device: str) -> None:
    """Which token a slot gets is not said, but no 16 bytes (8 in a float8 cache) are of two tokens."""
    size, piece = 200, 16 if scale is None else 8
    k = torch.arange(1, size + 1, device=device)[:, None].expand(size, dim).half().contiguous()
    slots = torch.randint(-1, 5, (size,))
    k_cache, v_cache = torch.zeros(2, 6, dim, device=device).to(k.dtype if scale is None else FLOAT8).unbind(0)
    store_cache(k_cache, v_cache, slots.to(device), k, k, k_scale=scale, v_scale=scale)
    rows = k if scale is None else quantised(k, scale)
    for cache, slot in itertools.product((k_cache, v_cache), range(5)):
        written = cache[slot].view(torch.uint8).view(-1, piece).tolist()
        offered = rows.view(torch.uint8)[(slots == slot).to(device)].view(-1, piece).tolist()
        assert offered
        assert all(part in offered for part in written)
    assert not k_cache[5].float().any()
    assert not v_cache[5].float().any()


def test_a_row_of_a_megabyte(device: str) -> None:
    size = 2**20 + 1
    k, v = (random_table(2, size, torch.uint8, device, 0) for _ in "kv")
    slots = torch.tensor([2, 0], device=device)
    check(random_bytes(6 * size, device), two_tables(3, size, torch.uint8), slots, k, v)


@st.composite
def stores(draw: st.DrawFn) -> tuple[int, Layout, torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Draw caches whose rows, pages and halves lie apart by any distance, strided inputs and strided slots."""
    rows = [(torch.float16, 64, 64), (torch.uint8, 20, 20), (torch.float32, 5, 5), (torch.int64, 16, 16)]
    dtype, k_dim, v_dim = draw(st.sampled_from([*rows, (torch.uint8, 33, 7), (torch.uint8, 128, 128)]))
    page_size = draw(st.sampled_from([1, 3]))
    num_pages, size = draw(st.integers(1, 9)), draw(st.integers(0, 30))
    num_slots = num_pages * page_size
    how = draw(st.sampled_from(["apart", "by slot", "by page", "slots outside pages"]))
    a, b, c, d = (draw(st.integers(0, 16)) for _ in range(4))
    if draw(st.booleans()):  # rows that start at multiples of 16, whatever their size
        a, c = -k_dim % 16 + a // 8 * 16, -v_dim % 16 + c // 8 * 16
        b, d = b // 8 * 16 if how == "apart" else c, d // 8 * 16
    offset = draw(st.integers(0, 17) | st.just(0))
    if how == "apart":
        k_steps = (page_size * (k_dim + a) + b, k_dim + a)
        v_steps = (page_size * (v_dim + c) + d, v_dim + c)
        distance = num_pages * k_steps[0]
    elif how == "by slot":
        k_steps = v_steps = (page_size * (k_dim + a + v_dim + b) + c, k_dim + a + v_dim + b)
        distance = k_dim + a
    elif how == "by page":
        step = max(k_dim, v_dim) + a
        k_steps = v_steps = (2 * page_size * step + b + c, step)
        distance = page_size * step + b
    else:
        k_steps = v_steps = (k_dim + a + v_dim + b, num_pages * (k_dim + a + v_dim + b) + c)
        distance = k_dim + a
    k_start, v_start = offset, offset + distance
    if k_steps == v_steps and k_dim == v_dim and draw(st.booleans()):
        k_start, v_start = v_start, k_start

    def layout(memory: torch.Tensor) -> list[torch.Tensor]:
        flat = memory.view(dtype)
        both = [(k_start, k_steps, k_dim), (v_start, v_steps, v_dim)]
        caches = [flat.as_strided((num_pages, page_size, dim), (*steps, 1), start) for start, steps, dim in both]
        return [cache.squeeze(1) for cache in caches] if page_size == 1 else caches

    ends = [s + (num_pages - 1) * p[0] + (page_size - 1) * p[1] for s, p in ((k_start, k_steps), (v_start, v_steps))]
    count = (max(ends) + k_dim + v_dim + 16) * dtype.itemsize // 8 * 8
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    torch.manual_seed(draw(st.integers(0, 2**31)))

    def table(dim: int) -> torch.Tensor:
        pad, begin = draw(st.integers(0, 20) | st.just(-dim % 16)), draw(st.integers(0, 17) | st.just(0))
        raw = torch.randint(
            0, 256, ((size * (dim + pad) + begin) * dtype.itemsize,), dtype=torch.uint8, generator=generator
        )
        return raw.view(dtype)[begin:].view(size, dim + pad)[:, :dim]

    slots = torch.cat([torch.arange(num_slots), torch.full((size,), -1)])
    slots = slots[torch.randperm(num_slots + size, generator=generator)][:size]
    slots = slots.to(draw(st.sampled_from([torch.int32, torch.int64])))
    return count, layout, every_second(slots) if draw(st.booleans()) else slots, table(k_dim), table(v_dim), page_size


@settings(max_examples=400, deadline=None)
@given(stores())
def test_any_layout(drawn: tuple[int, Layout, torch.Tensor, torch.Tensor, torch.Tensor, int]) -> None:
    count, layout, slots, k, v, page_size = drawn
    check(random_bytes(count), layout, slots, k, v, page_size=page_size)


steps = st.integers(0, 12)


def accepted(k_cache: torch.Tensor, v_cache: torch.Tensor, page_size: int) -> bool:
    none = torch.empty(0, 3, dtype=torch.uint8)
    try:
        store_cache(k_cache, v_cache, torch.empty(0, dtype=torch.int32), none, none[:, :2], page_size=page_size)
    except ValueError as error:
        if "overlap" not in str(error):
            raise
        return False
    return True


def bytes_of(cache: torch.Tensor) -> list[int]:
    own = torch.arange(cache.untyped_storage().nbytes())
    return own.as_strided(cache.shape, cache.stride(), cache.storage_offset()).flatten().tolist()


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), st.integers(0, 60), st.integers(0, 60), steps, steps | st.none())
def test_rows_that_overlap_are_refused(rows: int, k_start: int, v_start: int, step: int, other: int | None) -> None:
    memory = torch.zeros(200, dtype=torch.uint8)
    v_step = step if other is None else other
    k_cache, v_cache = (
        memory.as_strided((rows, 3), (step, 1), k_start),
        memory.as_strided((rows, 2), (v_step, 1), v_start),
    )
    touched = [bytes_of(k_cache), bytes_of(v_cache)]
    spans_apart = max(touched[0]) < min(touched[1]) or max(touched[1]) < min(touched[0])
    first, second, distance = (3, 2, v_start - k_start) if k_start <= v_start else (2, 3, k_start - v_start)
    interleaved = step == v_step and first <= distance <= step - second
    rows_apart = rows == 1 or (step >= 3 and v_step >= 2)
    assert accepted(k_cache, v_cache, 1) == (rows_apart and (spans_apart or interleaved))
    if accepted(k_cache, v_cache, 1):
        assert len(set(touched[0] + touched[1])) == 5 * rows


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4), st.integers(0, 40), st.integers(0, 13), st.integers(0, 250), st.booleans())
def test_paged_rows_that_overlap_are_refused(pages: int, page: int, slot: int, distance: int, v_first: bool) -> None:
    """Whatever is accepted has no byte twice; pages that lie one behind the other are accepted."""
    memory = torch.zeros(500, dtype=torch.uint8)
    k_start, v_start = (distance, 0) if v_first else (0, distance)
    k_cache = memory.as_strided((pages, 3, 3), (page, slot, 1), k_start)
    v_cache = memory.as_strided((pages, 3, 2), (page, slot, 1), v_start)
    touched = bytes_of(k_cache) + bytes_of(v_cache)
    if len(set(touched)) < len(touched):
        assert not accepted(k_cache, v_cache, 3)
    elif distance >= (pages - 1) * page + 2 * slot + 3 and (pages == 1 or page >= 2 * slot + 3):
        assert accepted(k_cache, v_cache, 3)


# Widths around every edge of threads_per_row, and every shape that a GPU may choose or be asked for.
SHAPES = dict(
    zip(
        [31, 32, 33, 511, 512, 513, 576, 1008, 5120, 10240, 14336, 96],
        itertools.product([1, 2, 4, 8], [32, 64, 128]),  # vectors per thread, threads per block
        strict=True,
    )
) | {560: (1, 64), 5136: (1, 64)}  # one vector a thread: rows begin inside a warp
FLOAT8_SHAPES = {576: (1, 64), 1152: (2, 32), 10240: (4, 128)}


def width_of_v(row_bytes: int) -> int:
    """Bytes of a row of V beside one of K: the same for some widths, fewer for others."""
    return row_bytes if row_bytes % 64 else row_bytes - 32


@pytest.fixture(scope="module", params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def shaped(request: pytest.FixtureRequest) -> tuple[tvm_ffi.Module, str]:
    """Kernels of all shapes in one library, and the device for them."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here; the same source is tested on the CPU")
    wrappers = []
    for to_float8, shapes in ((False, SHAPES), (True, FLOAT8_SHAPES)):
        for row_bytes, (vectors, threads) in shapes.items():
            config = KernelConfig(num_threads=threads, vectors_per_thread=vectors, use_pdl=True)
            _, function = store.store_wrapper(row_bytes, width_of_v(row_bytes), config, to_float8=to_float8)
            wrappers.append((f"store_{row_bytes}_{str(to_float8).lower()}", function))
    module = load_jit("store_shapes", cuda_files=["store.cu"], cuda_wrappers=wrappers, target=request.param)
    return module, "cpu" if request.param == "host" else "cuda"


@pytest.mark.parametrize(
    ("row_bytes", "to_float8"), [*((n, False) for n in SHAPES), *((n, True) for n in FLOAT8_SHAPES)]
)
def test_shapes_of_a_launch(shaped: tuple[tvm_ffi.Module, str], row_bytes: int, to_float8: bool) -> None:
    """The CPU never spreads a row as thin as a GPU does: run those kernels here too."""
    module, device = shaped
    function = getattr(module, f"store_{row_bytes}_{str(to_float8).lower()}")
    v_bytes, size, num_slots = width_of_v(row_bytes), 37, 50
    for offset in (0, 1, 2, 4, 8):  # vectors of 16, 1, 2, 4 and 8 bytes
        if to_float8:
            dims, cache_dtype, scale = [row_bytes // 2, v_bytes // 2], FLOAT8, 0.37
            inputs = torch.randn(size * 2 * row_bytes, device=device).half()
        else:
            dims, cache_dtype, scale = [row_bytes, v_bytes], torch.uint8, 1.0
            inputs = random_bytes(size * 2 * (row_bytes + 16) + 8, device)
        k, v = beside(inputs, size, dims, offset)
        memory = random_bytes(num_slots * 2 * (row_bytes + 16) + 8, device)
        slots = some_slots(size, num_slots).to(device)
        expected = memory.clone()
        for cache, rows in zip(beside(expected.view(cache_dtype), num_slots, dims, offset), (k, v), strict=True):
            put(cache, slots, quantised(rows, scale) if to_float8 else rows, 1)
        function(*beside(memory.view(cache_dtype), num_slots, dims, offset), slots, k, v, scale, scale)
        assert torch.equal(memory, expected)


def beside(memory: torch.Tensor, rows: int, dims: list[int], offset: int) -> list[torch.Tensor]:
    """Return two tables whose rows take turns; each starts `offset` elements behind a multiple of 16."""
    place = -(-max(dims) // 16) * 16
    both = memory[offset : offset + rows * 2 * place].view(rows, 2, place)
    return [both[:, i, :dim] for i, dim in enumerate(dims)]


def test_each_gpu_gets_code_of_its_own_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINISGL_CUDA_ARCH", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8 + device.index, 0))
    asked = []
    monkeypatch.setattr(store, "load_store_kernel", lambda *_, **options: asked.append(options))
    for number in (0, 1):
        store._load_kernel(512, 256, number == 1, 16, torch.device("cuda", number))
    assert asked == [
        {"to_float8": False, "page_size": 16, "target": "cuda", "arch": "sm_80"},
        {"to_float8": True, "page_size": 16, "target": "cuda", "arch": "sm_90"},
    ]


def test_threads_may_share_a_kernel() -> None:
    """The CPU target keeps threadIdx in plain variables: launches of one library must take turns."""
    k, v = (random_table(500, 64, torch.float16) for _ in "kv")
    slots = some_slots(500, 600)

    def one(_: int) -> bool:
        memory = torch.zeros(2 * 600 * 128, dtype=torch.uint8)
        check(memory, two_tables(600, 64, torch.float16), slots, k, v)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(100)))
