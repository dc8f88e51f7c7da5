# Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:acc0dccb5a53

"""Which NCCL this machine has. It is opened when it is needed; nothing links it."""

import importlib.metadata
import importlib.util
import os
from pathlib import Path

from minisgl.compile import ToolchainError

_WHEELS = ("nvidia-nccl-cu12", "nvidia-nccl-cu13")
_NAME = "libnccl.so.2"


def find_nccl_library() -> str:
    """Return the path of NCCL, or its bare name if only the system's loader may know it.

    In this order: `MINISGL_NCCL_LIBRARY`; the library that this process (PyTorch, usually) has loaded already; that of
    the wheel `nvidia-nccl-cu12` or `nvidia-nccl-cu13`; the system's.

    Raises:
        ToolchainError: `MINISGL_NCCL_LIBRARY` is no file, or both wheels are installed.
    """
    if configured := os.environ.get("MINISGL_NCCL_LIBRARY"):
        if not Path(configured).is_file():
            raise ToolchainError(
                f"MINISGL_NCCL_LIBRARY is {configured!r}, which is not a file; unset it or name {_NAME}."
            )
        return configured
    wheels = [wheel for wheel in _WHEELS if _is_installed(wheel)]
    if len(wheels) > 1:
        raise ToolchainError(
            "nvidia-nccl-cu12 and nvidia-nccl-cu13 are both installed, and each overwrites the library of the other: "
            "uninstall both, then install the one that your PyTorch asks for."
        )
    return _loaded() or _from_wheel() or _NAME


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _loaded() -> str | None:
    """Return the NCCL that this process has loaded: two of them in one process would not share their memory pools."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith("libnccl.so"):
            return path
    return None


def _from_wheel() -> str | None:
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        library = Path(folder, "nccl", "lib", _NAME)
        if library.is_file():
            return str(library)
    return None
