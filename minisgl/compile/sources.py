# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:51badb6fce7d

"""Where the C++ and CUDA sources are: the package's own, and this session's edits on top of them."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

_HEADER_SUFFIXES = (".h", ".hpp", ".cuh")
_EXPORTED = "// Exported from "  # how the exporter's line begins
_PACKAGE = Path(__file__).resolve().parents[1]
_session: tempfile.TemporaryDirectory[str] | None = None
_generation = 0
_listeners: list[Callable[[], None]] = []


def repository_root() -> Path | None:
    """Return the checkout that this package is imported from, or None if it was installed without one."""
    root = _PACKAGE.parent
    return root if (root / "csrc").is_dir() and (root / "notebooks").is_dir() else None


def csrc_roots() -> list[Path]:
    """Return the `csrc` folders in search order: this session's edits first, then the shipped sources."""
    shipped = _PACKAGE / "csrc"  # in a wheel
    if not shipped.is_dir():
        shipped = _PACKAGE.parent / "csrc"  # in a checkout
    return [Path(_session.name) / "csrc", shipped] if _session else [shipped]


def set_overlay(path: str, text: str) -> None:
    """Make this process compile `text` in place of the file `path`, such as `csrc/jit/index.cu`.

    Nothing is written to the repository. A text that compiles to the same code as the shipped file counts as that
    file. Raises ValueError if `path` is not below `csrc/`.
    """
    global _session
    parts = Path(path).parts
    if not parts or parts[0] != "csrc" or ".." in parts:
        raise ValueError(f"set_overlay: path: expected a file below csrc/, got {path!r}")
    if _session is None:
        _session = tempfile.TemporaryDirectory(prefix="minisgl-session-")
    file = Path(_session.name, path)
    shipped = csrc_roots()[-1].parent / path
    new = None if shipped.is_file() and _code(shipped.read_text()) == _code(text) else text
    if new == (file.read_text() if file.is_file() else None):
        return
    if new is None:
        file.unlink()
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(new)
    next_generation()


def clear_overlays() -> None:
    """Forget every edit of this session; the shipped sources are used again."""
    global _session
    if _session is not None:
        _session.cleanup()
        _session = None
        next_generation()


def generation() -> int:
    """Return a number that changes whenever kernels must be loaded anew, as after an edit in this session.

    Whoever keeps a compiled kernel keeps it beside this.
    """
    return _generation


def next_generation() -> None:
    """Make everybody load their kernels anew."""
    global _generation
    _generation += 1
    for listener in _listeners:
        listener()


def when_changed(listener: Callable[[], None]) -> None:
    """Call `listener` whenever `generation` changes, for those who cannot ask on every call."""
    _listeners.append(listener)


def is_shipped(path: str) -> bool:
    """Whether the package has a file `path`, such as `csrc/jit/index.cu`, whatever this session's edits are."""
    return (csrc_roots()[-1].parent / path).is_file()


def find_source(path: str | Path) -> Path:
    """Return the file that `path` (relative to `csrc/`, or absolute) stands for. Raises FileNotFoundError."""
    candidates = [root / path for root in csrc_roots()]
    for file in candidates:
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"find_source: {path}: no such source; looked in {', '.join(str(file) for file in candidates)}"
    )


def headers() -> dict[str, Path]:
    """Return every header that a kernel can include, by its path below `csrc/`, edits of this session first."""
    found: dict[str, Path] = {}
    for root in csrc_roots():
        for file in root.rglob("*"):
            if file.suffix in _HEADER_SUFFIXES:
                found.setdefault(file.relative_to(root).as_posix(), file)
    return dict(sorted(found.items()))


def sources_of(files: Sequence[str | Path]) -> dict[str, Path]:
    """Return `files` (relative to `csrc/`, or absolute), and the headers that lie beside the absolute ones."""
    found = {str(file): find_source(file) for file in files}
    for folder in {file.parent for file in map(Path, files) if file.is_absolute()}:
        found |= {str(file): file for file in folder.iterdir() if file.suffix in _HEADER_SUFFIXES}
    return dict(sorted(found.items()))


def digest(files: dict[str, Path]) -> str:
    """Hash the contents of `files` under their names, line numbers included: error messages name lines."""
    hasher = hashlib.sha256()
    for name, file in files.items():
        hasher.update(f"\0{name}\0".encode())
        for line in file.read_bytes().splitlines():
            hasher.update(b"\n" if line.startswith(_EXPORTED.encode()) else line + b"\n")
    return hasher.hexdigest()


def _code(text: str) -> list[str]:
    """Return the lines that change the compiled code: no blank ones, no `#line`, not the exporter's header."""
    code = []
    continued = False  # a blank line ends the line before it if that ends in a backslash
    for line in text.splitlines():
        if continued or (line.strip() and not line.startswith(("#line ", _EXPORTED))):
            code.append(line)
        continued = line.endswith("\\")
    return code
