# Exported from notebooks/02_describing_tensors.md by "minisgl book export"; edit it there. sha256:e84dc091493a

"""Check tensors in Python, with the words of `minisgl/tensor.h`, so that a hopeless call never reaches a compiler."""

from collections.abc import Sequence

import torch

_DEVICES = ("cpu", "cuda")


def require_tensor(function: str, argument: str, value: object) -> torch.Tensor:
    """Return `value` if a kernel can read it: a dense tensor with memory of its own kind, on the CPU or a GPU.

    Raises TypeError if it is no tensor or quantised, ValueError if it is sparse, nested, on another device, or a lazy
    view (conjugate, negative) whose memory holds other values than it shows.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{function}: {argument}: expected a torch.Tensor, got {type(value).__name__}")
    if value.layout is not torch.strided or value.is_nested:
        raise ValueError(
            f"{function}: {argument}: expected a dense tensor, got "
            + ("a nested one" if value.is_nested else f"layout {value.layout}")
        )
    if value.is_quantized:
        raise TypeError(f"{function}: {argument}: expected plain numbers, got the quantised dtype {value.dtype}")
    if value.device.type not in _DEVICES:
        raise ValueError(f"{function}: {argument}: expected a tensor on {' or '.join(_DEVICES)}, got {value.device}")
    if value.is_conj() or value.is_neg():
        raise ValueError(
            f"{function}: {argument}: expected a tensor with its values in memory, got a lazy conjugate or negative "
            "view; call resolve_conj() or resolve_neg() first"
        )
    return value


def require_match(
    function: str,
    argument: str,
    tensor: torch.Tensor,
    shape: Sequence[str | tuple[str, int]],
    *,
    dtypes: Sequence[torch.dtype] = (),
    device: torch.device | None = None,
    contiguous_dims: int = 0,
) -> None:
    """Raise unless `tensor` looks as declared; `TensorMatcher` in C++ says the same about the same tensor.

    Args:
        function: the public function, which the message names first.
        argument: the argument, which the message names next.
        tensor: what came.
        shape: one entry per dimension: a name for a size that is free, or a name and the value that it must have.
        dtypes: the allowed dtypes; all if empty.
        device: the device that it must be on; any if None.
        contiguous_dims: how many of the last dimensions must be contiguous.

    Raises:
        TypeError: for the dtype.
        ValueError: for all else.
    """
    dtype_fits = not dtypes or tensor.dtype in dtypes
    shape_fits = tensor.dim() == len(shape) and all(
        isinstance(want, str) or want[1] == got for want, got in zip(shape, tensor.shape, strict=True)
    )
    got = f"{list(tensor.shape)} {_name(tensor.dtype)} on {tensor.device}"
    if dtype_fits and shape_fits and device in (None, tensor.device):
        if _is_contiguous(tensor, contiguous_dims):
            return
        names = [want if isinstance(want, str) else want[0] for want in shape]
        sizes = ", ".join(f"{name}={size}" for name, size in zip(names, tensor.shape, strict=True))
        strides = ", ".join(["any"] * (tensor.dim() - contiguous_dims) + _contiguous_strides(tensor)[-contiguous_dims:])
        expected = f"[{sizes}] {_name(tensor.dtype)} on {tensor.device} with strides [{strides}]"
        got += f" with strides {list(tensor.stride())}"
    else:
        expected = f"[{', '.join(want if isinstance(want, str) else f'{want[0]}={want[1]}' for want in shape)}]"
        if dtypes:
            expected += " " + "|".join(map(_name, dtypes))
        if device is not None:
            expected += f" on {device}"
    error = ValueError if dtype_fits else TypeError
    raise error(f"{function}: {argument}: expected {expected}, got {got}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _contiguous_strides(tensor: torch.Tensor) -> list[str]:
    strides, stride = [], 1
    for size in reversed(tensor.shape):
        strides.append(str(stride))
        stride *= size
    return strides[::-1]


def _is_contiguous(tensor: torch.Tensor, dims: int) -> bool:
    expected = 1
    for size, stride in list(zip(tensor.shape, tensor.stride(), strict=True))[::-1][:dims]:
        if size != 1 and stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True
