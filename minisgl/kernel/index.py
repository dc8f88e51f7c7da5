# Exported from notebooks/05_index.md by "minisgl book export"; edit it there. sha256:f07be1b2b53b

"""Embedding lookup: copy rows of a table, chosen by index."""

import operator
import os

import torch
import tvm_ffi

from minisgl.compile import sources
from minisgl.compile.targets import cuda_arch
from minisgl.kernel.tensor import require_match, require_tensor
from minisgl.kernel.utils import KernelConfig, TargetName, load_jit, make_cpp_args

_CONFIG = KernelConfig(num_threads=64, use_pdl=True)
_INDEX_DTYPES = (torch.int32, torch.int64)
_INT64_MAX = 2**63 - 1
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
        output: `[L, D]`, the dtype and device of `weights`, contiguous inside a row, in memory of its own, without
            gradient; allocated if None.
        vocab_range: `(start, length)`: `weights` holds rows `start` to `start + length` of a larger vocabulary in its
            first `length` rows, and an index outside gives a row of zeros (vocabulary-parallel embedding).

    Returns:
        `output`. It carries no gradient.

    After an error nothing has been written.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a shape, stride, device or range is wrong, or `output` overlaps another argument.
        IndexError: without a `vocab_range`, an index outside `[0, V)` on the CPU, or on a GPU with `MINISGL_DEBUG=1`.
            On a GPU without it such an index gives a row of zeros.

    Source: `csrc/jit/index.cu`, after the kernel of the same name in Mini-SGLang.
    """
    require_tensor("indexing", "weights", weights)
    require_tensor("indexing", "indices", indices)
    if output is not None:
        _require_output(output)
    start, length = _check_range(vocab_range)
    debug = weights.is_cuda and start is None and os.environ.get("MINISGL_DEBUG") == "1"
    key = (weights.shape[-1:], weights.dtype, weights.device, sources.generation())
    kernel = _kernels.get(key)
    if kernel is None or debug or weights.dim() != 2 or indices.dim() != 1:
        _require_fit(weights, indices, output, vocab_range)
        kernel = kernel or _load_kernel(weights.shape[1] * weights.itemsize, weights.device)
        _kernels[key] = kernel
    if output is None:
        output = torch.empty((indices.shape[0], weights.shape[1]), dtype=weights.dtype, device=weights.device)
    if debug:
        _require_in_range(indices, weights.shape[0])
    kernel(weights, indices, output, start, length)
    torch.autograd.graph.increment_version(output)  # or autograd would not notice that saved values are gone
    return output


def _require_fit(
    weights: torch.Tensor,
    indices: torch.Tensor,
    output: torch.Tensor | None,
    vocab_range: tuple[int, int] | None,
) -> None:
    """Refuse in Python what the kernel would refuse, so that a hopeless call does not wait for a compiler."""
    require_match("indexing", "weights", weights, ("V", "D"), contiguous_dims=1)
    require_match("indexing", "indices", indices, ("L",), dtypes=_INDEX_DTYPES, device=weights.device)
    if output is not None:
        shape = (("L", indices.shape[0]), ("D", weights.shape[1]))
        dtypes = (weights.dtype,)
        require_match("indexing", "output", output, shape, dtypes=dtypes, device=weights.device, contiguous_dims=1)
    if vocab_range is not None and vocab_range[1] > weights.shape[0]:
        limit = f"start >= 0 and 0 <= length <= V={weights.shape[0]}"
        raise ValueError(f"indexing: vocab_range: expected {limit}, got {vocab_range}")
    if weights.shape[1] * weights.itemsize >= 2**31:
        raise ValueError(f"indexing: weights: expected rows of fewer than 2^31 bytes, got D={weights.shape[1]}")


def _require_output(output: object) -> None:
    if require_tensor("indexing", "output", output).requires_grad:
        raise ValueError("indexing: output: expected a tensor that requires no gradient, got one that does")


def _check_range(vocab_range: tuple[int, int] | None) -> tuple[int, int] | tuple[None, None]:
    if vocab_range is None:
        return None, None
    wrong = f"indexing: vocab_range: expected None or two ints (start, length), got {vocab_range!r}"
    if not isinstance(vocab_range, tuple) or len(vocab_range) != 2 or bool in map(type, vocab_range):
        raise TypeError(wrong)
    try:
        start, length = map(operator.index, vocab_range)
    except TypeError:
        raise TypeError(wrong) from None
    if start < 0 or length < 0 or start + length > _INT64_MAX:
        raise ValueError(
            f"indexing: vocab_range: expected start >= 0, length >= 0 and an end below 2^63, got ({start}, {length})"
        )
    return start, length


def _require_in_range(indices: torch.Tensor, num_rows: int) -> None:
    outside = ((indices < 0) | (indices >= num_rows)).nonzero()
    if len(outside):
        position = int(outside[0])
        raise IndexError(
            f"indexing: indices: expected values in [0, V={num_rows}), "
            f"got {int(indices[position])} at position {position}"
        )


def load_index_kernel(
    row_bytes: int,
    config: KernelConfig = _CONFIG,
    *,
    target: TargetName = "host",
    arch: str | None = None,
) -> tvm_ffi.Function:
    """Compile or find the kernel for rows of `row_bytes` bytes, and load it.

    The function takes `(weights, indices, output, start, length)`; the last two are None without a `vocab_range`.
    The errors are those of `load_jit`.
    """
    wrapper = index_wrapper(row_bytes, config)
    args = (row_bytes, *config.template_args)
    module = load_jit("index", *args, cuda_files=["index.cu"], cuda_wrappers=[wrapper], target=target, arch=arch)
    return module.indexing


def index_wrapper(row_bytes: int, config: KernelConfig = _CONFIG) -> tuple[str, str]:
    """Return the exported name and the C++ function behind it for one list of template arguments."""
    return "indexing", f"minisgl::IndexKernel<{make_cpp_args(row_bytes, *config.template_args)}>::run"


def _load_kernel(row_bytes: int, device: torch.device) -> tvm_ffi.Function:
    if device.type == "cpu":
        return load_index_kernel(row_bytes)
    return load_index_kernel(row_bytes, target="cuda", arch=cuda_arch(device))
