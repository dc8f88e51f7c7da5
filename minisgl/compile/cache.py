# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:309f2b0d0143

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


def get_or_build(key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of `key`, calling `build(folder)` to fill it if no process has done so before.

    `build` works in a folder aside, which is renamed into place when it returns: a killed build leaves only that
    folder, and the next build of the same key removes it. A file lock makes everybody else wait, not build again.
    """
    entry = cache_dir() / key
    if entry.is_dir():
        return entry
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
        if not entry.is_dir():
            aside = entry.with_name(f"{key}.building")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            build(aside)
            aside.rename(entry)
    return entry
