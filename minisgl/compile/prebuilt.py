# Exported from notebooks/13_kernels_become_a_package.md by "minisgl book export"; edit it there. sha256:a910cae47b51

"""Libraries that were built when the package was: found by a hash of everything that they are made of.

The package's own build runs this file as a script, before PyTorch is there, so it imports nothing but Python's library.
"""

import hashlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[1] / "prebuilt"
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"\n]+)[>"]', re.MULTILINE)
_SEARCHED = ("host", "include", "")  # folders of csrc/, in the order in which the compiler searches them


def contents(files: Sequence[str | Path], roots: Sequence[Path]) -> dict[str, Path]:
    """Return `files` and every header of ours that they include, directly or not, by their paths below `csrc/`.

    An `#include` counts whether or not the preprocessor would come to it. What is not below `csrc/` is left out.
    """
    found: dict[str, Path] = {}
    waiting = [str(file) for file in files]
    while waiting:
        path = waiting.pop()
        file = next((root / path for root in roots if (root / path).is_file()), None)
        if file and path not in found:
            found[path] = file
            for included in _INCLUDE.findall(file.read_bytes()):
                folders = (os.path.dirname(path), *_SEARCHED)
                waiting += [os.path.normpath(os.path.join(folder, included.decode())) for folder in folders]
    return found


def file_name(name: str, files: Sequence[str | Path], roots: Sequence[Path]) -> str:
    """Return what the library `name` of these sources is called: the name, and a hash of all that goes into it.

    Hashed are the contents of `files` and of the headers of ours that they include, directly or not, and the release of
    TVM-FFI, such as 0.1.15: the layout of its C++ objects may change with any.
    """
    release = re.match(r"[\d.]*\d", importlib.metadata.version("apache-tvm-ffi"))
    hasher = hashlib.sha256(release[0].encode() if release else b"")
    for path, file in contents(files, roots).items():
        text = file.read_bytes()
        hasher.update(f"\0{path}\0{len(text)}\0".encode() + text)
    return f"{name}-{hasher.hexdigest()[:24]}.so"


def find(name: str, files: Sequence[str | Path], roots: Sequence[Path]) -> Path | None:
    """Return the prebuilt library `name` if it is made of exactly these sources, else None.

    `files` are relative to `csrc/`, and `roots` are the `csrc` folders in search order. An edit of this session comes
    first in them, so what it changes is not prebuilt; nor is anything under `MINISGL_SANITIZE`.
    """
    if os.environ.get("MINISGL_SANITIZE"):
        return None
    library = _FOLDER / file_name(name, files, roots)
    return library if library.is_file() else None


if __name__ == "__main__":
    csrc, name, *files = sys.argv[1:]
    print(file_name(name, files, [Path(csrc)]))
