# Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:7e2d0f7ece82

"""Compare token ids at memory speed, and load the compiled library behind it and behind the radix prefix cache."""

import torch
import tvm_ffi

from minisgl.compile import sources
from minisgl.kernel.tensor import require_tensor
from minisgl.kernel.utils import load_aot


def fast_compare_key(x: torch.Tensor, y: torch.Tensor) -> int:
    """Return the length of the common prefix of two lists of token ids: how many agree before the first that differs.

    It uses the widest vectors of the processor that it runs on: AVX-512, AVX2, NEON, or what every processor has.

    Args:
        x: `[X]` int32 or int64, contiguous, on the CPU.
        y: `[Y]` of the same dtype; a shorter list ends the comparison.

    Raises:
        TypeError: another dtype, or two different ones.
        ValueError: another number of dimensions, not contiguous, or not on the CPU.

    Source: `csrc/src/radix.cpp`; the name is Mini-SGLang's.
    """
    try:
        return _compare(x, y)
    except (TypeError, RuntimeError) as error:
        raise explained(error, "fast_compare_key", x=x, y=y) from None


def explained(error: Exception, function: str, **arguments: object) -> Exception:
    """Return the error to raise for an error that came from the library: first of all, is each argument a tensor?"""
    try:
        for name, value in arguments.items():
            require_tensor(function, name, value)
    except (TypeError, ValueError) as reason:
        return reason
    return error


def compare_key_with(x: torch.Tensor, y: torch.Tensor, unit: str) -> int:
    """Return what `fast_compare_key` does, on a vector unit of your choice.

    Raises ValueError if `unit` is not one of `vector_units()`; the other errors are those of `fast_compare_key`.
    """
    units = vector_units()
    if unit not in units:
        raise ValueError(f"compare_key_with: unit: expected one of {', '.join(units)}, got {unit!r}")
    return radix_library().compare_key_with(x, y, units.index(unit))


def vector_units() -> list[str]:
    """Return the names of the vector units of this machine that the comparison can use, the widest last."""
    return list(radix_library().vector_units())


class _Library:
    """The compiled functions. They keep the GIL: giving it up and taking it again costs 50 ns, a fifth of a call."""

    def __init__(self) -> None:
        self._module = load_aot("radix", cpp_files=["radix.cpp"])

    def __getattr__(self, name: str) -> tvm_ffi.Function:
        function = self._module[name]
        function.release_gil = False
        setattr(self, name, function)
        return function


_library: _Library | None = None


def radix_library() -> _Library:
    """Load the library, or return it as it was loaded. The errors are those of `load_aot`."""
    global _library
    if _library is None:
        _library = _Library()
    return _library


def _load_and_compare(x: torch.Tensor, y: torch.Tensor) -> int:
    global _compare
    _compare = radix_library().fast_compare_key
    return _compare(x, y)


def _forget() -> None:
    global _library, _compare
    _library = None
    _compare = _load_and_compare


_compare = _load_and_compare
sources.when_changed(_forget)
