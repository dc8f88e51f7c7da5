"""`store_cache` and what only a GPU has: a debug mode, several devices, streams, graphs, launches that overlap."""

from collections.abc import Callable

import pytest
import torch
from stores import FLOAT8, quantised  # type: ignore[import-not-found]  # pytest puts this folder on the path

from minisgl.kernel import indexing, store, store_cache

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; the same source is tested on the CPU"),
]


def make_caches(device: str = "cuda", dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(4, 6, dtype=dtype, device=device), torch.zeros(4, 6, dtype=dtype, device=device)


def slots(*values: int, device: str = "cuda") -> torch.Tensor:
    return torch.tensor(values, device=device)


def ones(rows: int, device: str = "cuda") -> torch.Tensor:
    return torch.ones(rows, 6, device=device)


def test_debug_mode_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISGL_DEBUG", "1")
    k_cache, v_cache = make_caches()
    with pytest.raises(IndexError, match=r"expected slots in \[0, 4\) or -1 to skip a token, got 4 at position 1"):
        store_cache(k_cache, v_cache, slots(0, 4), ones(2), ones(2))
    assert not k_cache.any()
    assert not v_cache.any()
    store_cache(k_cache, v_cache, slots(0, -1), ones(2), ones(2))
    assert (k_cache.sum(), v_cache.sum()) == (6, 6)
    with pytest.raises(TypeError, match="store_cache: indices: expected"):
        store_cache(k_cache, v_cache, slots(0, 4).float(), ones(2), ones(2))


def test_devices_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_kernels", {})
    k_cache, v_cache = make_caches()
    for _ in range(2):  # before and after the kernels are loaded
        with pytest.raises(ValueError, match=r"store_cache: k: expected .* on cuda:0, got .* on cpu"):
            store_cache(k_cache, v_cache, slots(1, 0), ones(2, "cpu"), ones(2))
        with pytest.raises(ValueError, match=r"store_cache: v_cache: expected .* on cuda:0, got .* on cpu"):
            store_cache(k_cache, v_cache.cpu(), slots(1, 0), ones(2), ones(2))
        with pytest.raises(ValueError, match=r"store_cache: indices: expected .* on cpu, got .* on cuda:0"):
            store_cache(*make_caches("cpu"), slots(1, 0), ones(2), ones(2))
        store_cache(k_cache, v_cache, slots(1, 0), ones(2), ones(2))
        store_cache(*make_caches("cpu"), slots(1, 0, device="cpu"), ones(2, "cpu"), ones(2, "cpu"))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here, or none")
def test_a_second_gpu() -> None:
    k_cache, v_cache = make_caches("cuda:1")
    store_cache(k_cache, v_cache, slots(1, 0, device="cuda:1"), ones(2, "cuda:1"), ones(2, "cuda:1"))
    assert torch.cuda.current_device() == 0
    assert k_cache.sum(1).tolist() == v_cache.sum(1).tolist() == [6, 6, 0, 0]


def test_another_stream() -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        k = torch.ones(4096, 4096, device="cuda")
        k_cache, v_cache = torch.zeros(2, 4100, 4096, device="cuda").unbind(0)
        for _ in range(50):
            k = k + 1  # the store must wait for all of these
        store_cache(k_cache, v_cache, torch.arange(4096, device="cuda"), k, k)
    stream.synchronize()
    for cache in (k_cache, v_cache):
        assert cache[:4096].eq(51).all()
        assert not cache[4096:].any()


@pytest.mark.parametrize("scale", [None, 0.5])
def test_graph_capture(scale: float | None) -> None:
    k, v = torch.randn(2, 32, 64, device="cuda").half().unbind(0)
    indices = torch.randperm(100, device="cuda")[:32]
    k_cache, v_cache = torch.zeros(2, 100, 64, device="cuda").to(k.dtype if scale is None else FLOAT8).unbind(0)
    store_cache(k_cache, v_cache, indices, k, v, k_scale=scale, v_scale=scale)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        store_cache(k_cache, v_cache, indices, k, v, k_scale=scale, v_scale=scale)
    k.normal_()
    v.normal_()
    indices.copy_(torch.randperm(100)[:32])
    graph.replay()
    for cache, rows in ((k_cache, k), (v_cache, v)):
        expected = rows if scale is None else quantised(rows, scale)
        assert torch.equal(cache.view(torch.uint8)[indices], expected.view(torch.uint8))


@pytest.mark.parametrize(("rows", "dim"), [(1, 64), (16, 1024), (300, 36), (4096, 1024), (20000, 2048)])
@pytest.mark.parametrize("captured", [False, True])
def test_a_chain_of_dependent_launches(rows: int, dim: int, captured: bool) -> None:
    """With PDL a kernel starts while the one before it runs: each must still see all that was written."""
    generator = torch.Generator("cuda").manual_seed(0)
    orders = [torch.randperm(rows, generator=generator, device="cuda") for _ in range(4)]
    start = torch.randint(0, 100, (2, rows, dim), generator=generator, device="cuda").float()
    Look = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def chain(put: Callable[..., object], look_up: Look) -> torch.Tensor:
        k_cache, v_cache = torch.zeros_like(start).unbind(0)
        k, v = start.unbind(0)
        for step in range(50):
            slots, order = orders[step % 4], orders[(step + 1) % 4]
            put(k_cache, v_cache, slots, k, v)
            k = look_up(v_cache, order)
            put(v_cache, k_cache, order, look_up(k_cache, slots), k)
            v = look_up(v_cache, slots) + step if step % 3 else look_up(k_cache, order)
        return torch.stack([k_cache, v_cache, k, v])

    def index_put(k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, *rows: torch.Tensor) -> None:
        k_cache[slots], v_cache[slots] = rows

    expected = chain(index_put, lambda table, ids: table[ids])
    result = chain(store_cache, indexing)
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = chain(store_cache, indexing)
        graph.replay()
    assert torch.equal(result, expected)
