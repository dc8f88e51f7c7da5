"""Where the book is, and how its files are written: whole or not at all."""

import os
import tempfile
from pathlib import Path

from minisgl.book.errors import BookError

EXPORT_FOLDERS = ("csrc", "minisgl")
_MADE = (".pyc", ".so", ".typed")


def find_root(start: Path | None = None) -> Path:
    """Return the nearest folder at or above `start` that holds `notebooks/` and `pyproject.toml`."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise BookError(f"expected a folder with notebooks/ and pyproject.toml at or above {start}, found none")


def read_text(path: Path) -> str:
    """Read a UTF-8 file without touching its line ends."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise BookError(f"{path}: expected UTF-8 text: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def exportable_files(root: Path) -> list[str]:
    """Return every file that only a chapter may own, as paths relative to `root`."""
    found = []
    for folder in EXPORT_FOLDERS:
        for directory, folders, names in os.walk(root / folder):
            folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
            for name in names:
                path = Path(directory, name).relative_to(root).as_posix()
                if not name.startswith(".") and not name.endswith(_MADE) and not is_hand_written(path):
                    found.append(path)
    return sorted(found)


def is_hand_written(path: str) -> bool:
    """Tell whether `path` is the book's own machinery, which no chapter exports."""
    return path == "minisgl/cli.py" or path.startswith("minisgl/book/")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
