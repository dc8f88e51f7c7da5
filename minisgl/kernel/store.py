# Exported from notebooks/06_store.md by "minisgl book export"; edit it there. sha256:a0508d9e7831

"""KV-cache store: scatter the K and V rows of new tokens into their slots."""

import math
import os
from numbers import Integral, Real

import torch
import tvm_ffi

from minisgl.compile import sources
from minisgl.compile.targets import cuda_arch
from minisgl.kernel.tensor import require_match, require_tensor
from minisgl.kernel.utils import KernelConfig, TargetName, load_jit, make_cpp_args

_CONFIG = KernelConfig(num_threads=64, max_occupancy=24, use_pdl=True)
_INDEX_DTYPES = (torch.int32, torch.int64)
_FLOAT8 = torch.float8_e4m3fn
_HALVES = (torch.float16, torch.bfloat16)
_SCALES = (2.0**-64, 2.0**64)
_kernels: dict[tuple[object, ...], tvm_ffi.Function] = {}


def store_cache(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    indices: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    k_scale: float | None = None,
    v_scale: float | None = None,
    page_size: int = 1,
) -> None:
    """Store the keys and values of new tokens: `k_cache[indices[i]] = k[i]`, and the same for V.

    Args:
        k_cache: `[N, ...]`, any dtype: one row per slot. Rows may lie apart and are contiguous inside. With a
            `page_size` above 1: `[P, page_size, ...]`, and slot `s` is row `[s // page_size, s % page_size]`.
        v_cache: like `k_cache`. Its rows may have another width. The two may be slices of one tensor.
        indices: `[L]` int32 or int64, any stride: the slot of each token; -1 skips the token. If a slot comes twice,
            it is not said which token ends up there, not even that all of its row is one token's. But where all rows
            start at, and are, multiples of 16 bytes, every 16 bytes (8 in a float8 cache) come from one token.
        k: `[L, ...]`, with as many elements in a row as `k_cache`, of its dtype. Rows may lie apart.
        v: like `k`, for `v_cache`.
        k_scale: from 2^-64 to 2^64, given with `v_scale`: the caches are `float8_e4m3fn`, `k` and `v` are float16 or
            bfloat16, and what is stored is the float32 number `k / k_scale`, rounded to nearest even; beyond the range
            it is -448 or 448.
        v_scale: the same for V.
        page_size: slots per page.

    After an error nothing has been written.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a shape, stride, device or scale is wrong, the rows of the caches overlap, or another argument lies
            within the memory that a cache spans.
        IndexError: a slot outside the cache other than -1, on the CPU, or on a GPU with `MINISGL_DEBUG=1`. On a GPU
            without it such a token is skipped.

    Source: `csrc/jit/store.cu`, after the kernel of the same name in Mini-SGLang.
    """
    _require_plain(k_cache, v_cache, indices, k, v)
    page_size = _check_page_size(page_size)
    scales = _check_scales(k_scale, v_scale)
    debug = k_cache.is_cuda and os.environ.get("MINISGL_DEBUG") == "1"
    key = (k.shape[1:], v.shape[1:], k.dtype, scales is not None, page_size, k_cache.device, sources.generation())
    kernel = _kernels.get(key)
    if kernel is None or debug:
        k_row, v_row = _require_fit(k_cache, v_cache, indices, k, v, to_float8=scales is not None, page_size=page_size)
        if kernel is None:
            kernel = _kernels[key] = _load_kernel(k_row, v_row, scales is not None, page_size, k_cache.device)
    if debug:
        _require_in_range(indices, math.prod(k_cache.shape[: 1 if page_size == 1 else 2]))
    try:
        kernel(k_cache, v_cache, indices, k, v, *(scales or (1.0, 1.0)))
    except (TypeError, ValueError):  # in the words of the first call, if that would have refused too
        _require_fit(k_cache, v_cache, indices, k, v, to_float8=scales is not None, page_size=page_size)
        raise
    torch.autograd.graph.increment_version([k_cache, v_cache])  # or autograd would not notice the new values


def _require_plain(k_cache: object, v_cache: object, indices: object, k: object, v: object) -> None:
    for name, value in (("k_cache", k_cache), ("v_cache", v_cache), ("indices", indices), ("k", k), ("v", v)):
        tensor = require_tensor("store_cache", name, value)
        if name.endswith("cache") and tensor.requires_grad:
            raise ValueError(f"store_cache: {name}: expected a tensor that requires no gradient, got one that does")


def _check_page_size(page_size: int) -> int:
    if isinstance(page_size, bool) or not isinstance(page_size, Integral):
        raise TypeError(f"store_cache: page_size: expected an int, got {page_size!r}")
    if not 1 <= page_size < 2**31:
        raise ValueError(f"store_cache: page_size: expected at least 1 and below 2^31, got {page_size}")
    return int(page_size)


def _check_scales(k_scale: float | None, v_scale: float | None) -> tuple[float, float] | None:
    if k_scale is None and v_scale is None:
        return None
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if isinstance(scale, bool) or not isinstance(scale, Real):
            raise TypeError(f"store_cache: {name}: expected a number, as for the other scale, got {scale!r}")
        if not _SCALES[0] <= scale <= _SCALES[1]:
            raise ValueError(f"store_cache: {name}: expected a number from 2^-64 to 2^64, got {scale!r}")
    return float(k_scale), float(v_scale)  # type: ignore[arg-type]


def _require_fit(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    indices: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    to_float8: bool,
    page_size: int,
) -> tuple[int, int]:
    """Refuse in Python what the kernel would refuse, so that a hopeless call does not wait for a compiler.

    Returns the bytes of a row of `k` and of `v`.
    """
    pages = () if page_size == 1 else (("page_size", page_size),)
    dtypes: tuple[torch.dtype, ...] = _HALVES if to_float8 else ()
    cache_dtypes: tuple[torch.dtype, ...] = (_FLOAT8,) if to_float8 else ()
    device = k_cache.device
    caches = [_as_rows("k_cache", k_cache, 1 + len(pages)), _as_rows("v_cache", v_cache, 1 + len(pages))]
    for name, row, cache in zip(("k_cache", "v_cache"), ("K", "V"), caches, strict=True):
        slots = "N" if name == "k_cache" else ("N", k_cache.shape[0])
        require_match(
            "store_cache", name, cache, (slots, *pages, row), dtypes=cache_dtypes, device=device, contiguous_dims=1
        )
        cache_dtypes = (k_cache.dtype,)
    require_match("store_cache", "indices", indices, ("L",), dtypes=_INDEX_DTYPES, device=device)
    inputs = [_as_rows("k", k, 1), _as_rows("v", v, 1)]
    for name, row, cache, tensor in zip("kv", "KV", caches, inputs, strict=True):
        shape = (("L", indices.shape[0]), (row, cache.shape[-1]))
        dtypes = dtypes or (k_cache.dtype,)
        require_match("store_cache", name, tensor, shape, dtypes=dtypes, device=device, contiguous_dims=1)
        dtypes = (k.dtype,)
    k_bytes, v_bytes = (rows.shape[1] * rows.itemsize for rows in inputs)
    for name, row_bytes in (("k", k_bytes), ("v", v_bytes)):
        if row_bytes >= 2**31:
            raise ValueError(f"store_cache: {name}: expected rows of fewer than 2^31 bytes, got {row_bytes} bytes")
    return k_bytes, v_bytes


def _as_rows(name: str, tensor: torch.Tensor, leading: int) -> torch.Tensor:
    """Return `tensor` with all dimensions behind the `leading` ones as one."""
    if tensor.dim() <= leading:
        raise ValueError(f"store_cache: {name}: expected at least {leading + 1} dimensions, got {tensor.dim()}")
    row = 1
    for d in reversed(range(leading, tensor.dim())):
        if tensor.shape[d] != 1 and tensor.stride(d) != row and tensor.numel():
            raise ValueError(
                f"store_cache: {name}: expected contiguous rows, got a stride of {tensor.stride(d)} in dimension {d}"
            )
        row *= tensor.shape[d]
    return tensor.view(*tensor.shape[:leading], row)


def _require_in_range(indices: torch.Tensor, num_slots: int) -> None:
    outside = ((indices < -1) | (indices >= num_slots)).nonzero()
    if len(outside):
        position = int(outside[0])
        raise IndexError(
            f"store_cache: indices: expected slots in [0, {num_slots}) or -1 to skip a token, "
            f"got {int(indices[position])} at position {position}"
        )


def load_store_kernel(
    k_row_bytes: int,
    v_row_bytes: int,
    config: KernelConfig = _CONFIG,
    *,
    to_float8: bool = False,
    page_size: int = 1,
    target: TargetName = "host",
    arch: str | None = None,
) -> tvm_ffi.Function:
    """Compile or find the kernel for rows of `k` and `v` of so many bytes, and load it.

    The function takes `(k_cache, v_cache, indices, k, v, k_scale, v_scale)`. The errors are those of `load_jit`.
    """
    wrapper = store_wrapper(k_row_bytes, v_row_bytes, config, to_float8=to_float8, page_size=page_size)
    args = (to_float8, k_row_bytes, v_row_bytes, page_size, *config.template_args)
    module = load_jit("store", *args, cuda_files=["store.cu"], cuda_wrappers=[wrapper], target=target, arch=arch)
    return module.store_cache


def store_wrapper(
    k_row_bytes: int,
    v_row_bytes: int,
    config: KernelConfig = _CONFIG,
    *,
    to_float8: bool = False,
    page_size: int = 1,
) -> tuple[str, str]:
    """Return the exported name and the C++ function behind it for one list of template arguments."""
    args = make_cpp_args(to_float8, k_row_bytes, v_row_bytes, page_size, *config.template_args)
    return "store_cache", f"minisgl::StoreKernel<{args}>::run"


def _load_kernel(k_row: int, v_row: int, to_float8: bool, page_size: int, device: torch.device) -> tvm_ffi.Function:
    if device.type == "cpu":
        return load_store_kernel(k_row, v_row, to_float8=to_float8, page_size=page_size)
    arch = cuda_arch(device)
    return load_store_kernel(k_row, v_row, to_float8=to_float8, page_size=page_size, target="cuda", arch=arch)
