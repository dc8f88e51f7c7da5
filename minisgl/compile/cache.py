# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:4f24ee476a00

"""The build cache: one folder per key, published whole or not at all, built once however many ask."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder of compiled code: `MINISGL_CACHE_DIR`, else `minisgl` in the user's cache folder."""
    if configured := os.environ.get("MINISGL_CACHE_DIR"):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "minisgl"


def get_or_build(key: str, product: str, build: Callable[[Path], None]) -> Path:
    """Return the file `product` in the folder of `key`, calling `build(folder)` to make it if nobody has yet.

    `build` works in a folder aside, which is renamed into place when it returns: a killed build leaves only that
    folder, and the next build of the same key removes it. A file lock makes everybody else wait, not build again. An
    entry whose product is missing or empty, as after a power failure, is built again.
    """
    entry = cache_dir() / key
    if _is_complete(entry / product):
        return entry / product
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = open(entry.with_name(f"{key}.lock"), "w")  # noqa: SIM115 (closed by the with below)
    except OSError as error:
        raise RuntimeError(
            f"minisgl: cannot write to the build cache {entry.parent} ({error.strerror}); "
            "set MINISGL_CACHE_DIR to a folder that you can write to"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if not _is_complete(entry / product):
                aside = entry.with_name(f"{key}.building")
                _remove(aside)
                aside.mkdir()
                try:
                    build(aside)
                except BaseException:
                    _remove(aside)
                    raise
                _remove(entry)
                aside.rename(entry)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a child forked meanwhile shares the lock; closing would not release it
    return entry / product


def _is_complete(product: Path) -> bool:
    try:
        return product.stat().st_size > 0
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
