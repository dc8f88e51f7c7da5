"""What `store_cache` says about arguments that it can't use, and what it does to tensors that autograd knows."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import tvm_ffi
from stores import FLOAT8  # type: ignore[import-not-found]  # pytest puts this folder on the path

from minisgl.kernel import store, store_cache

SLOTS = torch.tensor([1, 0])
K = torch.ones(2, 2, 3)
MEMORY = torch.zeros(200)
K_CACHE, V_CACHE = MEMORY[:24].view(4, 2, 3), MEMORY[24:48].view(4, 2, 3)
MEMORY8 = torch.zeros(200, dtype=torch.uint8)
K_CACHE8, V_CACHE8 = MEMORY8[:24].view(FLOAT8).view(4, 2, 3), MEMORY8[24:48].view(FLOAT8).view(4, 2, 3)
K_HALF = K.half()
PAGED, V_PAGED = MEMORY[:36].view(2, 3, 2, 3), MEMORY[36:72].view(2, 3, 2, 3)


def bad_store(**arguments: object) -> Callable[[], None]:
    """Return a call that would be right if it were not for `arguments`."""
    good: dict[str, object] = {"k_cache": K_CACHE, "v_cache": V_CACHE, "indices": SLOTS, "k": K, "v": K}
    if "k_scale" in arguments or "v_scale" in arguments:
        good |= {"k_cache": K_CACHE8, "v_cache": V_CACHE8, "k": K_HALF, "v": K_HALF, "k_scale": 1.0, "v_scale": 1.0}
    if "page_size" in arguments:
        good |= {"k_cache": PAGED, "v_cache": V_PAGED}
    return lambda: store_cache(**good | arguments)  # type: ignore[arg-type]


def freed(*shape: int) -> torch.Tensor:
    tensor = torch.zeros(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


def halves_at_an_odd_address() -> torch.Tensor:
    return torch.frombuffer(bytearray(64), dtype=torch.float16, offset=1, count=12).view(2, 2, 3)


BAD_CALLS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "k: a list": (bad_store(k=[1.0]), TypeError, "k: expected a torch.Tensor, got list"),
    "v_cache: sparse": (
        bad_store(v_cache=V_CACHE.clone().to_sparse()),
        ValueError,
        "v_cache: expected a dense tensor, got layout torch.sparse_coo",
    ),
    "v: meta": (bad_store(v=K.to("meta")), ValueError, "v: expected a tensor on cpu or cuda, got meta"),
    "k: lazy conjugate": (
        bad_store(k=K.to(torch.complex64).conj()),
        ValueError,
        "k: expected a tensor with its values in memory, got a lazy conjugate or negative view; "
        "call resolve_conj() or resolve_neg() first",
    ),
    "k_cache: requires a gradient": (
        bad_store(k_cache=torch.zeros(4, 2, 3).requires_grad_()),
        ValueError,
        "k_cache: expected a tensor that requires no gradient, got one that does",
    ),
    "v_cache: requires a gradient": (
        bad_store(v_cache=torch.zeros(4, 2, 3).requires_grad_()),
        ValueError,
        "v_cache: expected a tensor that requires no gradient, got one that does",
    ),
    "k_cache: 1-D": (
        bad_store(k_cache=MEMORY[:24]),
        ValueError,
        "k_cache: expected at least 2 dimensions, got 1",
    ),
    "k_cache: 2-D, but paged": (
        bad_store(k_cache=MEMORY[:24].view(4, 6), page_size=3),
        ValueError,
        "k_cache: expected at least 3 dimensions, got 2",
    ),
    "k_cache: other pages": (
        bad_store(page_size=2),
        ValueError,
        "k_cache: expected [N, page_size=2, K] on cpu, got [2, 3, 6] float32 on cpu",
    ),
    "k_cache: heads transposed": (
        bad_store(k_cache=MEMORY[:24].view(4, 3, 2).transpose(1, 2)),
        ValueError,
        "k_cache: expected contiguous rows, got a stride of 2 in dimension 2",
    ),
    "k_cache: heads apart": (
        bad_store(k_cache=MEMORY[:32].view(4, 2, 4)[..., :3]),
        ValueError,
        "k_cache: expected contiguous rows, got a stride of 4 in dimension 1",
    ),
    "k_cache: slots on top of each other": (
        bad_store(k_cache=MEMORY[:6].view(1, 2, 3).expand(4, 2, 3)),
        ValueError,
        "k_cache: expected rows that do not overlap, got overlapping ones",
    ),
    "v_cache: slots overlap": (
        bad_store(v_cache=MEMORY[24:].as_strided((4, 6), (5, 1))),
        ValueError,
        "v_cache: expected rows that do not overlap, got overlapping ones",
    ),
    "v_cache: pages overlap": (
        bad_store(v_cache=MEMORY.as_strided((2, 3, 6), (17, 6, 1), 36), page_size=3),
        ValueError,
        "v_cache: expected rows that do not overlap, got overlapping ones",
    ),
    "v_cache: other slots": (
        bad_store(v_cache=V_CACHE[:3]),
        ValueError,
        "v_cache: expected [N=4, V] float32 on cpu, got [3, 6] float32 on cpu",
    ),
    "v_cache: dtype": (
        bad_store(v_cache=V_CACHE.to(torch.bfloat16)),
        TypeError,
        "v_cache: expected [N=4, V] float32 on cpu, got [4, 6] bfloat16 on cpu",
    ),
    "v_cache: is k_cache": (
        bad_store(v_cache=K_CACHE),
        ValueError,
        "v_cache: expected rows apart from those of k_cache, got overlapping ones",
    ),
    "v_cache: overlaps k_cache": (
        bad_store(v_cache=MEMORY[20:44].view(4, 2, 3)),
        ValueError,
        "v_cache: expected rows apart from those of k_cache, got overlapping ones",
    ),
    "v_cache: the last page overlaps k_cache": (
        bad_store(v_cache=MEMORY[35:71].view(2, 3, 2, 3), page_size=3),
        ValueError,
        "v_cache: expected rows apart from those of k_cache, got overlapping ones",
    ),
    "indices: float": (
        bad_store(indices=SLOTS.float()),
        TypeError,
        "indices: expected [L] int32|int64 on cpu, got [2] float32 on cpu",
    ),
    "indices: 2-D": (
        bad_store(indices=SLOTS[None]),
        ValueError,
        "indices: expected [L] int32|int64 on cpu, got [1, 2] int64 on cpu",
    ),
    "indices: too large": (
        bad_store(indices=torch.tensor([0, 4])),
        IndexError,
        "indices: expected slots in [0, 4) or -1 to skip a token, got 4 at position 1",
    ),
    "indices: too large for the pages": (
        bad_store(indices=torch.tensor([6, 1]), page_size=3),
        IndexError,
        "indices: expected slots in [0, 6) or -1 to skip a token, got 6 at position 0",
    ),
    "indices: below -1": (
        bad_store(indices=torch.tensor([-1, -2], dtype=torch.int32)),
        IndexError,
        "indices: expected slots in [0, 4) or -1 to skip a token, got -2 at position 1",
    ),
    "k: more tokens": (
        bad_store(k=torch.ones(3, 2, 3)),
        ValueError,
        "k: expected [L=2, K=6] float32 on cpu, got [3, 6] float32 on cpu",
    ),
    "k: wider": (
        bad_store(k=torch.ones(2, 2, 4)),
        ValueError,
        "k: expected [L=2, K=6] float32 on cpu, got [2, 8] float32 on cpu",
    ),
    "v: wider": (
        bad_store(v=torch.ones(2, 7)),
        ValueError,
        "v: expected [L=2, V=6] float32 on cpu, got [2, 7] float32 on cpu",
    ),
    "v: dtype": (
        bad_store(v=K.double()),
        TypeError,
        "v: expected [L=2, V=6] float32 on cpu, got [2, 6] float64 on cpu",
    ),
    "k: 1-D": (bad_store(k=K[0, 0]), ValueError, "k: expected at least 2 dimensions, got 1"),
    "v: transposed": (
        bad_store(v=torch.ones(6, 2).t()),
        ValueError,
        "v: expected contiguous rows, got a stride of 2 in dimension 1",
    ),
    "k: lies in v_cache": (
        bad_store(k=MEMORY[40:52].view(2, 2, 3)),
        ValueError,
        "v_cache: expected memory apart from that of k, got memory that overlaps it",
    ),
    "v: lies in k_cache": (
        bad_store(v=MEMORY[12:24].view(2, 2, 3)),
        ValueError,
        "k_cache: expected memory apart from that of v, got memory that overlaps it",
    ),
    "indices: lie in k_cache": (
        bad_store(indices=MEMORY[:2].view(torch.int32)),
        ValueError,
        "k_cache: expected memory apart from that of indices, got memory that overlaps it",
    ),
    "k: memory was freed": (
        bad_store(k=freed(2, 2, 3)),
        ValueError,
        "k: expected a tensor with memory, got one without (freed, fake or a wrapper)",
    ),
    "k_cache: memory was freed": (
        bad_store(k_cache=freed(4, 2, 3)),
        ValueError,
        "k_cache: expected a tensor with memory, got one without (freed, fake or a wrapper)",
    ),
    "page_size: a float": (bad_store(page_size=3.0), TypeError, "page_size: expected an int, got 3.0"),
    "page_size: a bool": (
        bad_store(k_cache=K_CACHE, v_cache=V_CACHE, page_size=True),
        TypeError,
        "page_size: expected an int, got True",
    ),
    "page_size: a list": (bad_store(page_size=[3]), TypeError, "page_size: expected an int, got [3]"),
    "page_size: 0": (bad_store(page_size=0), ValueError, "page_size: expected at least 1 and below 2^31, got 0"),
    "page_size: 2^31": (
        bad_store(page_size=2**31),
        ValueError,
        "page_size: expected at least 1 and below 2^31, got 2147483648",
    ),
    "v_scale: missing": (
        bad_store(k_scale=1.0, v_scale=None),
        TypeError,
        "v_scale: expected a number, as for the other scale, got None",
    ),
    "k_scale: missing": (
        bad_store(k_scale=None, v_scale=1.0),
        TypeError,
        "k_scale: expected a number, as for the other scale, got None",
    ),
    "k_scale: a bool": (
        bad_store(k_scale=True),
        TypeError,
        "k_scale: expected a number, as for the other scale, got True",
    ),
    "v_scale: a tensor": (
        bad_store(v_scale=torch.tensor(1.0)),
        TypeError,
        "v_scale: expected a number, as for the other scale, got tensor(1.)",
    ),
    "k_scale: 0": (bad_store(k_scale=0), ValueError, "k_scale: expected a number from 2^-64 to 2^64, got 0"),
    "k_scale: negative": (
        bad_store(k_scale=-1.0),
        ValueError,
        "k_scale: expected a number from 2^-64 to 2^64, got -1.0",
    ),
    "v_scale: not a number": (
        bad_store(v_scale=math.nan),
        ValueError,
        "v_scale: expected a number from 2^-64 to 2^64, got nan",
    ),
    "v_scale: too large": (
        bad_store(v_scale=2**64 + 1),
        ValueError,
        "v_scale: expected a number from 2^-64 to 2^64, got 18446744073709551617",
    ),
    "k_cache: not float8, but scales": (
        bad_store(k_scale=1.0, k_cache=K_CACHE.half()),
        TypeError,
        "k_cache: expected [N, K] float8_e4m3fn on cpu, got [4, 6] float16 on cpu",
    ),
    "v_cache: another float8": (
        bad_store(k_scale=1.0, v_cache=V_CACHE8.view(torch.float8_e5m2)),
        TypeError,
        "v_cache: expected [N=4, V] float8_e4m3fn on cpu, got [4, 6] float8_e5m2 on cpu",
    ),
    "k: float32, but scales": (
        bad_store(k_scale=1.0, k=K),
        TypeError,
        "k: expected [L=2, K=6] float16|bfloat16 on cpu, got [2, 6] float32 on cpu",
    ),
    "v: the other half": (
        bad_store(k_scale=1.0, v=K.bfloat16()),
        TypeError,
        "v: expected [L=2, V=6] float16 on cpu, got [2, 6] bfloat16 on cpu",
    ),
    "k: wider, and scales": (
        bad_store(k_scale=1.0, k=torch.ones(2, 8).half()),
        ValueError,
        "k: expected [L=2, K=6] float16|bfloat16 on cpu, got [2, 8] float16 on cpu",
    ),
    "k: float16, but a float8 cache without scales": (
        bad_store(k_cache=K_CACHE8, v_cache=V_CACHE8, k=K_HALF, v=K_HALF),
        TypeError,
        "k: expected [L=2, K=6] float8_e4m3fn on cpu, got [2, 6] float16 on cpu",
    ),
    "k: an odd address": (
        bad_store(k_scale=1.0, k=halves_at_an_odd_address()),
        ValueError,
        "k and v: expected addresses that are multiples of 2",
    ),
}


@pytest.fixture(autouse=True)
def nothing_stored() -> None:
    MEMORY.zero_()
    MEMORY8.zero_()


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_kernels", {})
    call, error, message = BAD_CALLS[name]
    for _ in range(2):  # before and after the kernels are loaded
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
        assert str(caught.value) == f"store_cache: {message}"
        assert MEMORY.eq(0).all()
        assert MEMORY8.eq(0).all()
        for good in (bad_store(), bad_store(k_scale=1.0), bad_store(page_size=3)):
            good()
            MEMORY.zero_()
            MEMORY8.zero_()


FAULTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "0-D": lambda t: t.flatten()[0],
    "1-D": lambda t: t.flatten(),
    "one dimension more": lambda t: t[None],
    "float64": lambda t: t.double(),
    "int8": lambda t: t.to(torch.int8),
    "bfloat16": lambda t: t.bfloat16(),
    "int32": lambda t: t.int(),
    "narrow": lambda t: t[..., :1],
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.dim() > 1 else t[:, None],
    "the first": lambda t: t[:1],
    "none": lambda t: t[:0],
}


# Bytes of a row, the tensors of a call that is right, and its options.
FAULTY_KINDS: dict[str, tuple[int, tuple[torch.Tensor, ...], dict[str, object]]] = {
    "plain": (24, (K_CACHE, V_CACHE, SLOTS, K, K), {}),
    "float8": (12, (K_CACHE8, V_CACHE8, SLOTS, K_HALF, K_HALF), {"k_scale": 2.0, "v_scale": 1.0}),
    "paged": (24, (PAGED, V_PAGED, SLOTS, K, K), {"page_size": 3}),
}


def faulty_calls(tensors: tuple[torch.Tensor, ...], options: dict[str, object]) -> Iterator[Callable[[], None]]:
    """Yield calls with one argument, or two, that are wrong in some way, or happen to be right."""
    good = dict(zip(("k_cache", "v_cache", "indices", "k", "v"), tensors, strict=True))
    for names in [(name,) for name in good] + [("k", "v"), ("k_cache", "k"), ("indices", "v")]:
        for faults in itertools.product(FAULTS.values(), repeat=len(names)):
            wrong = {name: fault(good[name]) for name, fault in zip(names, faults, strict=True)}
            yield bad_store(**{**good, **options, **wrong})


class ReachedError(Exception):
    """A call came as far as its kernel."""


def outcome(call: Callable[[], None]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "stored"


@pytest.mark.parametrize("kind", FAULTY_KINDS)
def test_the_words_of_a_refusal_are_the_same_before_and_after_the_kernel_is_loaded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes, good, options = FAULTY_KINDS[kind]
    kernel = store.load_store_kernel(
        row_bytes, row_bytes, to_float8=kind == "float8", page_size=3 if kind == "paged" else 1
    )

    class AlwaysAtHand(dict[object, tvm_ffi.Function]):
        def get(self, *_: object) -> tvm_ffi.Function:
            return kernel

    def nothing(*_: object) -> None:
        raise ReachedError

    refused = 0
    for call in faulty_calls(good, options):
        monkeypatch.setattr(store, "_kernels", {})
        monkeypatch.setattr(store, "_load_kernel", lambda *_: nothing)
        cold = outcome(call)
        monkeypatch.setattr(store, "_kernels", AlwaysAtHand())
        warm = outcome(call)
        if not cold.startswith("ReachedError"):
            assert warm == cold
            refused += 1
    assert refused > 60


def test_nothing_is_written_when_a_slot_is_refused() -> None:
    for bad, dtype in itertools.product([4, 5, -2, 2**31 - 1, -(2**31)], [torch.int32, torch.int64]):
        with pytest.raises(
            IndexError, match=rf"expected slots in \[0, 4\) or -1 to skip a token, got {bad} at position 1"
        ):
            store_cache(K_CACHE, V_CACHE, torch.tensor([0, bad, 99], dtype=dtype), *[K[:1].expand(3, 2, 3)] * 2)
        assert MEMORY.eq(0).all()


def test_hopeless_calls_never_reach_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_kernels", {})
    monkeypatch.setattr(store, "_load_kernel", lambda *_: pytest.fail("compiled"))
    cache, other = torch.zeros(2, 4, 1237).unbind(0)  # a row size that nobody has asked for
    k = torch.ones(2, 1237)
    for arguments in (
        {"k": k.double()},
        {"k": k.t()},
        {"k": k[:1]},
        {"v": k[:, :9]},
        {"v": k[0]},
        {"indices": SLOTS.float()},
        {"indices": SLOTS[None]},
        {"v_cache": other[:3]},
        {"k_cache": cache.t()},
        {"k_cache": cache.to(FLOAT8)},
        {"k_scale": 1.0},
        {"k_scale": 1.0, "v_scale": 1.0},
        {"page_size": 2},
        {"page_size": 1.0},
        {"k_cache": cache.clone().requires_grad_()},
    ):
        good = {"k_cache": cache, "v_cache": other, "indices": SLOTS, "k": k, "v": k}
        with pytest.raises((TypeError, ValueError)):
            store_cache(**{**good, **arguments})  # type: ignore[arg-type]


def test_debug_mode_names_the_first_bad_slot() -> None:
    with pytest.raises(IndexError, match=r"expected slots in \[0, 4\) or -1 to skip a token, got 9 at position 2"):
        store._require_in_range(torch.tensor([0, -1, 9, -2]), 4)
    with pytest.raises(IndexError, match=r"got -2 at position 1"):
        store._require_in_range(torch.tensor([0, -2]), 4)
    store._require_in_range(torch.tensor([0, 3, -1]), 4)


def test_k_and_v_may_require_gradients() -> None:
    k_cache, v_cache = torch.zeros(2, 4, 2, 3).unbind(0)
    store_cache(k_cache, v_cache, SLOTS, torch.ones(2, 2, 3, requires_grad=True), torch.nn.Parameter(2 * K))
    assert (k_cache.sum(), v_cache.sum()) == (12, 24)
    assert not k_cache.requires_grad
    assert not v_cache.requires_grad


@pytest.mark.parametrize("name", ["k_cache", "v_cache"])
def test_autograd_notices_a_cache_that_it_saved(name: str) -> None:
    k_cache, v_cache = torch.ones(4, 2, 3), torch.ones(4, 2, 3)
    saved = k_cache if name == "k_cache" else v_cache
    loss = (torch.ones(4, 2, 3, requires_grad=True) * saved).sum()
    version = saved._version
    store_cache(k_cache, v_cache, SLOTS, K, K)
    assert saved._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_autograd_notices_a_write_that_was_not_recorded(mode: type) -> None:
    caches, x = torch.zeros(2, 8, 8), torch.ones(8, 8, requires_grad=True)
    product = (x * caches[0]).sum()
    with mode():
        store_cache(caches[0], caches[1], torch.arange(3), torch.ones(3, 8), torch.ones(3, 8))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_numpy_numbers_are_numbers() -> None:
    caches = torch.zeros(2, 2, 4, 8).to(FLOAT8)
    k = torch.ones(1, 8, dtype=torch.float16)
    numbers: dict[str, Any] = {"k_scale": np.float32(0.5), "v_scale": np.int64(2), "page_size": np.int64(4)}
    store_cache(caches[0], caches[1], torch.tensor([5]), k, k, **numbers)
    assert caches[0, 1, 1].float().eq(2).all()
    assert caches[1, 1, 1].float().eq(0.5).all()


@pytest.mark.parametrize("size", [2**31, 2**61])
def test_rows_that_no_kernel_can_carry(size: int) -> None:
    empty = torch.empty(0, size, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"store_cache: k: expected rows of fewer than 2.31 bytes, got {size} bytes"):
        store_cache(empty, empty.clone(), torch.arange(0), empty, empty)


def test_pages_that_are_never_stepped_over_may_differ() -> None:
    memory = torch.zeros(300)
    k_cache, v_cache = memory.as_strided((1, 4, 8), (64, 16, 1)), memory.as_strided((1, 4, 8), (128, 16, 1), 8)
    store_cache(k_cache, v_cache, torch.tensor([2]), torch.ones(1, 8), torch.full((1, 8), 2.0), page_size=4)
    assert memory.nonzero().flatten().tolist() == list(range(32, 48))


def test_inference_tensors() -> None:
    """An engine makes its caches in inference mode, and may store outside it."""
    with torch.inference_mode():
        k_cache, v_cache = torch.zeros(2, 4, 2, 3).unbind(0)
        k = torch.ones(2, 2, 3)
        store_cache(k_cache, v_cache, SLOTS, k, K)
        store_cache(torch.zeros(4, 2, 3), torch.zeros(4, 2, 3), SLOTS, K, k)
    store_cache(k_cache, v_cache, SLOTS + 1, k, 2 * K)
    store_cache(k_cache, torch.zeros(4, 2, 3), SLOTS + 1, k, 2 * K)
    assert k_cache.sum((1, 2)).tolist() == [6, 6, 6, 0]
    assert v_cache.sum((1, 2)).tolist() == [6, 12, 12, 0]
