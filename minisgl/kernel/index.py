# Exported from notebooks/05_index.md by "minisgl book export"; edit it there. sha256:62aa9483bdfd

"""Embedding lookup: copy rows of a table, chosen by index."""

import os

import torch
import tvm_ffi

from minisgl.compile import sources
from minisgl.kernel.tensor import require_match, require_tensor
from minisgl.kernel.utils import KernelConfig, TargetName, load_jit, make_cpp_args

_CONFIG = KernelConfig()
_INDEX_DTYPES = (torch.int32, torch.int64)
_kernels: dict[tuple[object, ...], tvm_ffi.Function] = {}


def indexing(
    weights: torch.Tensor,
    indices: torch.Tensor,
    *,
    output: torch.Tensor | None = None,
    vocab_range: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Look rows up in a table: `output[i] = weights[indices[i]]`.

    Args:
        weights: `[V, D]`, any dtype. Rows may lie apart (any stride in dimension 0) and are contiguous inside.
        indices: `[L]` int32 or int64, on the device of `weights`, any stride.
        output: `[L, D]`, the dtype and device of `weights`, contiguous inside a row, in memory of its own; allocated
            if None.
        vocab_range: `(start, length)`: `weights` holds rows `start` to `start + length` of a larger vocabulary in its
            first `length` rows, and an index outside gives a row of zeros (vocabulary-parallel embedding).

    Returns:
        `output`. It carries no gradient.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a shape, stride, device or range is wrong, or `output` overlaps another argument.
        IndexError: without a `vocab_range`, an index outside `[0, V)` on the CPU, or on a GPU with `MINISGL_DEBUG=1`.
            On a GPU without it such an index gives a row of zeros.
        After an error nothing has been written.

    Source: `csrc/jit/index.cu`, after the kernel of the same name in Mini-SGLang.
    """
    require_tensor("indexing", "weights", weights)
    require_tensor("indexing", "indices", indices)
    if output is not None:
        require_tensor("indexing", "output", output)
    start, length = _check_range(vocab_range)
    target: TargetName = "cuda" if weights.is_cuda else "host"
    key = (weights.shape[-1:], weights.dtype, target, weights.device, sources.generation())
    kernel = _kernels.get(key)
    if kernel is None or weights.dim() != 2 or indices.dim() != 1:
        _require_fit(weights, indices, output)
        kernel = _kernels[key] = _load_kernel(weights.shape[1] * weights.itemsize, target)
    if output is None:
        output = torch.empty((indices.shape[0], weights.shape[1]), dtype=weights.dtype, device=weights.device)
    if start is None and target == "cuda" and os.environ.get("MINISGL_DEBUG") == "1":
        _require_in_range(indices, weights.shape[0])
    kernel(weights, indices, output, start, length)
    return output


def _require_fit(weights: torch.Tensor, indices: torch.Tensor, output: torch.Tensor | None) -> None:
    """Refuse in Python what the kernel would refuse, so that a hopeless call does not wait for a compiler."""
    require_match("indexing", "weights", weights, ("V", "D"), contiguous_dims=1)
    require_match("indexing", "indices", indices, ("L",), dtypes=_INDEX_DTYPES, device=weights.device)
    if output is not None:
        shape = (("L", indices.shape[0]), ("D", weights.shape[1]))
        dtypes = (weights.dtype,)
        require_match("indexing", "output", output, shape, dtypes=dtypes, device=weights.device, contiguous_dims=1)


def _check_range(vocab_range: tuple[int, int] | None) -> tuple[int, int] | tuple[None, None]:
    if vocab_range is None:
        return None, None
    if not (isinstance(vocab_range, tuple) and len(vocab_range) == 2 and all(type(v) is int for v in vocab_range)):
        raise TypeError(f"indexing: vocab_range: expected None or two ints (start, length), got {vocab_range!r}")
    return vocab_range


def _require_in_range(indices: torch.Tensor, num_rows: int) -> None:
    outside = ((indices < 0) | (indices >= num_rows)).nonzero()
    if len(outside):
        position = int(outside[0])
        raise IndexError(
            f"indexing: indices: expected values in [0, V={num_rows}), "
            f"got {int(indices[position])} at position {position}"
        )


def num_splits(row_bytes: int) -> int:
    """Return how many warps share a row: as many (up to 4) as leave each whole rounds of 32 lanes by 16 bytes."""
    for splits in (4, 2):
        if row_bytes % (splits * 512) == 0:
            return splits
    return 1


def _load_kernel(row_bytes: int, target: TargetName) -> tvm_ffi.Function:
    splits = num_splits(row_bytes) if target == "cuda" else 1  # the CPU runs one warp after the other anyway
    args = (row_bytes, splits, *_CONFIG.template_args)
    function = f"minisgl::IndexKernel<{make_cpp_args(*args)}>::run"
    module = load_jit("index", *args, cuda_files=["index.cu"], cuda_wrappers=[("indexing", function)], target=target)
    return module.indexing
