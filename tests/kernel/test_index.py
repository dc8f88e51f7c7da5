"""`indexing` against PyTorch, bit for bit, and what it says about bad input."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import (  # type: ignore[import-not-found]  # pytest puts this folder on the path
    DTYPES,
    bits,
    poisoned,
    random_table,
)

from minisgl.kernel import index, indexing
from minisgl.kernel.utils import KernelConfig, load_jit

V = 50
VOCAB_RANGES = [None, (0, V), (10, 20), (V - 1, 1), (1000, V), (7, 0)]


def expected_bits(weights: torch.Tensor, indices: torch.Tensor, vocab_range: tuple[int, int] | None) -> torch.Tensor:
    """PyTorch's answer, computed on bytes: every dtype can be indexed so."""
    start, length = vocab_range or (0, weights.shape[0])
    local = indices.to(torch.int64) - start
    inside = (local >= 0) & (local < length)
    rows = torch.index_select(bits(weights), 0, local.clamp(0, max(weights.shape[0] - 1, 0)))
    return torch.where(inside[:, None], rows, torch.zeros_like(rows))


@pytest.mark.parametrize("dim", [1, 3, 7, 64, 100, 288, 576, 4096, 5120])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_torch(dtype: torch.dtype, dim: int, device: str) -> None:
    for offset in (0, 16 // dtype.itemsize + 1):  # aligned as the row size allows, and at an odd address
        check_equals_torch(dtype, dim, device, offset)


def check_equals_torch(dtype: torch.dtype, dim: int, device: str, offset: int) -> None:
    weights = random_table(V, dim, dtype, device, offset)
    index_dtypes = (torch.int32, torch.int64) if offset == 0 else (torch.int64, torch.int32)
    assert (weights.data_ptr() % 16 == 0) == (offset == 0)
    for size, vocab_range in itertools.product([0, 1, 5, 1000], VOCAB_RANGES):
        low, high = (0, V) if vocab_range is None else (-3, vocab_range[0] + vocab_range[1] + 3)
        indices = torch.randint(low, high, (size,), device=device)
        expected = expected_bits(weights, indices, vocab_range)
        fresh = indexing(weights, indices.to(index_dtypes[0]), vocab_range=vocab_range)
        assert fresh.dtype == dtype
        assert torch.equal(bits(fresh), expected)
        given_output = poisoned(size, dim, dtype, device, offset)
        result = indexing(weights, indices.to(index_dtypes[1]), output=given_output, vocab_range=vocab_range)
        assert result is given_output
        assert torch.equal(bits(given_output), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_vocab_range_at_its_edges(dtype: torch.dtype, device: str) -> None:
    weights = random_table(V, 8, torch.float32, device)
    info = torch.iinfo(dtype)
    indices = torch.tensor([info.min, -1, 9, 10, 29, 30, info.max], dtype=dtype, device=device)
    result = indexing(weights, indices, vocab_range=(10, 20))
    assert torch.equal(bits(result[3:5]), bits(weights[[0, 19]]))
    assert not bits(result[[0, 1, 2, 5, 6]]).any()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_kernel_reads_zeros_out_of_range(dtype: torch.dtype, unchecked: str) -> None:
    memory = torch.ones(V + 2, 8, device=unchecked)
    info = torch.iinfo(dtype)
    indices = torch.tensor([info.min, -1, 0, V - 1, V, info.max], dtype=dtype, device=unchecked)
    result = indexing(memory[1 : V + 1], indices)
    assert result.sum(1).tolist() == [0, 0, 8, 8, 0, 0]


@st.composite
def lookups(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, int] | None]:
    """Draw a lookup with rows that lie apart and start anywhere, and strided indices."""
    dtype = draw(st.sampled_from([torch.uint8, torch.float16, torch.float32, torch.int64]))
    dim = draw(st.sampled_from([1, 3, 7, 64, 100, 288]))  # for which test_equals_torch has compiled kernels
    rows, size = draw(st.integers(1, 20)), draw(st.integers(0, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def table(count: int) -> torch.Tensor:
        pad, offset = draw(st.integers(0, 20) | st.just(-dim % 16)), draw(st.integers(0, 17) | st.just(0))
        count_bytes = (count * (dim + pad) + offset) * dtype.itemsize
        raw = torch.randint(0, 256, (count_bytes,), dtype=torch.uint8, generator=generator)
        return raw.view(dtype)[offset:].view(count, dim + pad)[:, :dim]

    vocab_range = draw(st.none() | st.tuples(st.integers(0, 30), st.integers(0, rows)))
    step = draw(st.integers(1, 3))
    low, high = (0, rows) if vocab_range is None else (-5, 60)
    indices = torch.randint(low, high, (size * step,), generator=generator)[::step]
    if draw(st.booleans()):
        indices = indices.to(torch.int32)
    return table(rows), indices, table(size), vocab_range


@settings(max_examples=150, deadline=None)
@given(lookups())
def test_any_layout(
    lookup: tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, int] | None],
) -> None:
    weights, indices, output, vocab_range = lookup
    base = output._base if output._base is not None else output
    outside = torch.ones(base.numel() * base.itemsize, dtype=torch.bool)
    written = torch.as_strided(
        torch.arange(base.numel() * base.itemsize),
        (output.shape[0], output.shape[1] * output.itemsize),
        (output.stride(0) * output.itemsize, 1),
        output.storage_offset() * output.itemsize,
    )
    outside[written.reshape(-1)] = False
    before = base.view(torch.uint8).clone()
    indexing(weights, indices, output=output, vocab_range=vocab_range)
    assert torch.equal(bits(output), expected_bits(weights, indices, vocab_range))
    assert torch.equal(base.view(torch.uint8)[outside], before[outside]), "bytes between the rows were written"


# Widths around every edge of threads_per_row, and every shape that a GPU may choose or be asked for.
SHAPES = dict(
    zip(
        [31, 32, 33, 511, 512, 513, 576, 1008, 5120, 10240, 14336, 96],
        itertools.product([1, 2, 4, 8], [32, 64, 128]),  # vectors per thread, threads per block
        strict=True,
    )
) | {560: (1, 64), 5136: (1, 64)}  # one vector a thread: rows begin inside a warp


@pytest.fixture(scope="module", params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def shaped(request: pytest.FixtureRequest) -> tuple[tvm_ffi.Module, str]:
    """Kernels of all shapes in one library, and the device for them."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here; the same source is tested on the CPU")
    wrappers = []
    for row_bytes, (vectors, threads) in SHAPES.items():
        config = KernelConfig(num_threads=threads, vectors_per_thread=vectors, use_pdl=True)
        wrappers.append((f"index_{row_bytes}", index.index_wrapper(row_bytes, config)[1]))
    module = load_jit("index_shapes", cuda_files=["index.cu"], cuda_wrappers=wrappers, target=request.param)
    return module, "cpu" if request.param == "host" else "cuda"


@pytest.mark.parametrize("row_bytes", SHAPES)
def test_shapes_of_a_launch(shaped: tuple[tvm_ffi.Module, str], row_bytes: int) -> None:
    """The CPU never spreads a row as thin as a GPU does: run those kernels here too."""
    module, device = shaped
    for offset in (0, 1, 2, 4, 8):  # vectors of 16, 1, 2, 4 and 8 bytes
        place = -(-row_bytes // 16) * 16  # each row starts so far behind a multiple of 16
        weights = random_table(V, place, torch.uint8, device, offset)[:, :row_bytes]
        memory = random_table(37, place, torch.uint8, device, offset)
        indices = torch.randint(-3, V + 3, (37,), device=device)
        expected = memory.clone()
        expected[:, :row_bytes] = expected_bits(weights, indices, (0, V))
        getattr(module, f"index_{row_bytes}")(weights, indices, memory[:, :row_bytes], 0, V)
        assert torch.equal(memory, expected)


def test_parameters_can_be_looked_up() -> None:
    embedding = torch.nn.Embedding(10, 6)
    ids = torch.tensor([3, 3, 9])
    result = indexing(embedding.weight, ids)
    assert torch.equal(result, embedding(ids))
    assert not result.requires_grad


def table(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


def freed() -> torch.Tensor:
    tensor = table(4, 3)
    tensor.untyped_storage().resize_(0)
    return tensor


IDS = torch.tensor([1, 0])
W = table(4, 3)
W_AND_OUTPUT = table(6, 3)
BAD_CALLS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "weights: a list": (
        lambda: indexing([1.0], IDS),  # type: ignore[arg-type]
        TypeError,
        "indexing: weights: expected a torch.Tensor, got list",
    ),
    "weights: 1-D": (
        lambda: indexing(table(4), IDS),
        ValueError,
        "indexing: weights: expected [V, D], got [4] float32 on cpu",
    ),
    "weights: 0-D": (
        lambda: indexing(torch.tensor(1.0), IDS),
        ValueError,
        "indexing: weights: expected [V, D], got [] float32 on cpu",
    ),
    "weights: transposed": (
        lambda: indexing(table(3, 4).t(), IDS),
        ValueError,
        "indexing: weights: expected [V=4, D=3] float32 on cpu with strides [any, 1], "
        "got [4, 3] float32 on cpu with strides [1, 4]",
    ),
    "weights: sparse": (
        lambda: indexing(W.to_sparse(), IDS),
        ValueError,
        "indexing: weights: expected a dense tensor, got layout torch.sparse_coo",
    ),
    "weights: meta": (
        lambda: indexing(W.to("meta"), IDS),
        ValueError,
        "indexing: weights: expected a tensor on cpu or cuda, got meta",
    ),
    "weights: lazy conjugate": (
        lambda: indexing(table(4, 3, dtype=torch.complex64).conj(), IDS),
        ValueError,
        "indexing: weights: expected a tensor with its values in memory, got a lazy conjugate or negative view; "
        "call resolve_conj() or resolve_neg() first",
    ),
    "indices: float": (
        lambda: indexing(W, IDS.float()),
        TypeError,
        "indexing: indices: expected [L] int32|int64 on cpu, got [2] float32 on cpu",
    ),
    "indices: int16": (
        lambda: indexing(W, IDS.short()),
        TypeError,
        "indexing: indices: expected [L] int32|int64 on cpu, got [2] int16 on cpu",
    ),
    "indices: 2-D": (
        lambda: indexing(W, IDS[None]),
        ValueError,
        "indexing: indices: expected [L] int32|int64 on cpu, got [1, 2] int64 on cpu",
    ),
    "indices: too large": (
        lambda: indexing(W, torch.tensor([0, 4, 5])),
        IndexError,
        "indexing: indices: expected values in [0, V=4), got 4 at position 1",
    ),
    "indices: negative": (
        lambda: indexing(W, torch.tensor([0, -1], dtype=torch.int32)),
        IndexError,
        "indexing: indices: expected values in [0, V=4), got -1 at position 1",
    ),
    "output: shape": (
        lambda: indexing(W, IDS, output=table(3, 3)),
        ValueError,
        "indexing: output: expected [L=2, D=3] float32 on cpu, got [3, 3] float32 on cpu",
    ),
    "output: dtype": (
        lambda: indexing(W, IDS, output=table(2, 3, dtype=torch.float16)),
        TypeError,
        "indexing: output: expected [L=2, D=3] float32 on cpu, got [2, 3] float16 on cpu",
    ),
    "output: transposed": (
        lambda: indexing(W, IDS, output=table(3, 2).t()),
        ValueError,
        "indexing: output: expected [L=2, D=3] float32 on cpu with strides [any, 1], "
        "got [2, 3] float32 on cpu with strides [1, 2]",
    ),
    "output: rows on top of each other": (
        lambda: indexing(W, IDS, output=table(1, 3).expand(2, 3)),
        ValueError,
        "indexing: output: expected rows that do not overlap, got a stride of 0 for rows of D=3",
    ),
    "output: overlaps weights": (
        lambda: indexing(W_AND_OUTPUT[:4], IDS, output=W_AND_OUTPUT[3:5]),
        ValueError,
        "indexing: output: expected memory apart from that of weights, got memory that overlaps it",
    ),
    "vocab_range: a list": (
        lambda: indexing(W, IDS, vocab_range=[0, 4]),  # type: ignore[arg-type]
        TypeError,
        "indexing: vocab_range: expected None or two ints (start, length), got [0, 4]",
    ),
    "vocab_range: longer than weights": (
        lambda: indexing(W, IDS, vocab_range=(2, 5)),
        ValueError,
        "indexing: vocab_range: expected start >= 0 and 0 <= length <= V=4, got (2, 5)",
    ),
    "vocab_range: negative start": (
        lambda: indexing(W, IDS, vocab_range=(-1, 4)),
        ValueError,
        "indexing: vocab_range: expected start >= 0, length >= 0 and an end below 2^63, got (-1, 4)",
    ),
    "vocab_range: beyond 64 bits": (
        lambda: indexing(W, IDS, vocab_range=(2**63, 1)),
        ValueError,
        "indexing: vocab_range: expected start >= 0, length >= 0 and an end below 2^63, got (9223372036854775808, 1)",
    ),
    "weights: quantised": (
        lambda: indexing(torch.quantize_per_tensor(W, 1.0, 0, torch.qint8), IDS),
        TypeError,
        "indexing: weights: expected plain numbers, got the quantised dtype torch.qint8",
    ),
    "weights: nested": (
        lambda: indexing(torch.nested.nested_tensor([W, W]), IDS),
        ValueError,
        "indexing: weights: expected a dense tensor, got a nested one",
    ),
    "weights: memory was freed": (
        lambda: indexing(freed(), IDS),
        ValueError,
        "indexing: weights: expected a tensor with memory, got one without (freed, fake or a wrapper)",
    ),
    "vocab_range: a bool": (
        lambda: indexing(W, IDS, vocab_range=(False, 4)),
        TypeError,
        "indexing: vocab_range: expected None or two ints (start, length), got (False, 4)",
    ),
    "output: requires a gradient": (
        lambda: indexing(W, IDS, output=table(2, 3).requires_grad_()),
        ValueError,
        "indexing: output: expected a tensor that requires no gradient, got one that does",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_kernels", {})
    call, error, message = BAD_CALLS[name]
    for _ in range(2):  # before and after the kernel is loaded
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
        assert str(caught.value) == message
        indexing(W, IDS)
        assert W.eq(1).all()
        assert W_AND_OUTPUT.eq(1).all()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_autograd_notices_an_output_that_it_saved(mode: type) -> None:
    x, output = table(2, 3).requires_grad_(), table(2, 3)
    loss = (x * output).sum()
    with mode():
        indexing(W, IDS, output=output)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_tensors() -> None:
    with torch.inference_mode():
        weights, output = table(4, 3), table(2, 3)
        indexing(weights, IDS, output=output)
    assert torch.equal(indexing(2 * weights, IDS, output=output), 2 * weights[IDS])
    assert torch.equal(indexing(weights, IDS), weights[IDS])


def test_a_child_forked_during_a_launch_can_launch() -> None:
    code = """
import os, threading, torch
from minisgl.kernel import indexing
weights, ids = torch.ones(2000, 4096), torch.randint(0, 2000, (20000,))
output, small = torch.empty(20000, 4096), (torch.ones(4, 4096), torch.tensor([0]))
indexing(*small)
stop = threading.Event()
def launch():
    while not stop.is_set():
        indexing(weights, ids, output=output)
thread = threading.Thread(target=launch)
thread.start()
for _ in range(5):
    if (child := os.fork()) == 0:
        indexing(*small)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_nothing_is_written_when_an_index_is_refused() -> None:
    output = torch.full((3, 3), 7.0)
    with pytest.raises(IndexError):
        indexing(W, torch.tensor([0, 1, 99]), output=output)
    assert output.eq(7.0).all()


def test_hopeless_calls_never_reach_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_load_kernel", lambda *_: pytest.fail("compiled"))
    weights = table(4, 1237)  # a row size that nobody has asked for
    for call in (
        lambda: indexing(weights.t(), IDS),
        lambda: indexing(weights, IDS.float()),
        lambda: indexing(weights, IDS[None]),
        lambda: indexing(weights, IDS, output=weights[:3]),
        lambda: indexing(weights, IDS, output=weights[:2].double()),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()


def test_debug_mode_names_the_first_bad_index() -> None:
    with pytest.raises(IndexError, match=r"expected values in \[0, V=4\), got 9 at position 2"):
        index._require_in_range(torch.tensor([0, 3, 9, -1]), 4)
    index._require_in_range(torch.tensor([0, 3]), 4)


def test_numpy_ints_are_ints() -> None:
    result = indexing(W, IDS, vocab_range=(np.int64(0), np.int32(4)))  # type: ignore[arg-type]
    assert torch.equal(result, W[IDS])


def test_each_gpu_gets_code_of_its_own_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINISGL_CUDA_ARCH", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8 + device.index, 0))
    asked = []
    monkeypatch.setattr(index, "load_index_kernel", lambda *_, target, arch: asked.append((target, arch)))
    for number in (0, 1):
        index._load_kernel(512, torch.device("cuda", number))
    assert asked == [("cuda", "sm_80"), ("cuda", "sm_90")]


def test_threads_may_share_a_kernel() -> None:
    """The CPU target keeps threadIdx in plain variables: launches of one library must take turns."""
    weights, ids = random_table(V, 72, torch.float32), torch.randint(0, V, (500,))
    expected = expected_bits(weights, ids, None)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: indexing(weights, ids), range(200)))
    assert all(torch.equal(bits(result), expected) for result in results)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; the same source is tested on the CPU")
class TestOnGpu:
    def test_debug_mode_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MINISGL_DEBUG", "1")
        with pytest.raises(IndexError):
            indexing(W.cuda(), torch.tensor([0, 4]).cuda())

    def test_debug_mode_checks_the_arguments_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        indexing(W.cuda(), IDS.cuda())
        monkeypatch.setenv("MINISGL_DEBUG", "1")
        with pytest.raises(TypeError):
            indexing(W.cuda(), IDS.cuda().float())

    def test_another_stream(self) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            weights = torch.ones(4096, 4096, device="cuda")
            for _ in range(50):
                weights = weights + 1  # the lookup must wait for all of these
            result = indexing(weights, torch.arange(10, device="cuda"))
        stream.synchronize()
        assert result.eq(51).all()

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here, or none")
    def test_a_second_gpu(self) -> None:
        result = indexing(W.to("cuda:1"), IDS.to("cuda:1"))
        assert torch.cuda.current_device() == 0
        assert torch.equal(result.cpu(), W[IDS])

    def test_devices_must_agree(self) -> None:
        with pytest.raises(ValueError, match="indexing: indices: expected"):
            indexing(W.cuda(), IDS)

    def test_other_stream_and_graph_capture(self) -> None:
        weights, ids = torch.randn(100, 64, device="cuda"), torch.randint(0, 100, (32,), device="cuda")
        output = torch.empty(32, 64, device="cuda")
        indexing(weights, ids, output=output)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            indexing(weights, ids, output=output)
        ids.copy_(torch.randint(0, 100, (32,)))
        graph.replay()
        assert torch.equal(output, weights[ids])
