# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:6cd86cbbad09

"""From an address in a compiled kernel to the lines of source that it comes from."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from minisgl.compile import sources
from minisgl.compile.errors import ToolchainError
from minisgl.microscope.records import Source

_EXPORTED = re.compile(r"// Exported from (\S+)")
_known: dict[tuple[str, int], dict[int, list[str]]] = {}  # by library and its date: addr2line takes 10 ms and more


def source_lines(library: str, addresses: Sequence[int]) -> list[tuple[Source, ...]]:
    """Return for each address in `library` its line, then those that the inlined functions are called from.

    The lines of our own CUDA headers for the CPU, and of the loop over threads, are left out where a line of the
    kernel remains. Raises ToolchainError if there is no addr2line.
    """
    known = _known.setdefault((library, Path(library).stat().st_mtime_ns), {})
    missing = [address for address in addresses if address not in known]
    if missing:
        known.update(zip(missing, _addr2line(library, missing), strict=True))
    files = _Files()
    return [_kernel_lines(known[address], files) for address in addresses]


def _addr2line(library: str, addresses: Sequence[int]) -> list[list[str]]:
    """Return for each address alternately a function and its place, from the inside."""
    tool = shutil.which("addr2line")
    if tool is None:
        raise ToolchainError("The microscope needs addr2line: apt install binutils on Debian and Ubuntu.")
    command = [tool, "-a", "-f", "-i", "-C", "-e", library]
    text = "\n".join(map(hex, addresses))
    output = subprocess.run(command, input=text, capture_output=True, text=True, check=False).stdout
    return [chain.splitlines() for chain in re.split(r"^0x[0-9a-f]+\n", output, flags=re.MULTILINE)[1:]]


class _Files:
    """Source files, each read once."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[str, list[str]]] = {}

    def read(self, file: str) -> tuple[str, list[str]]:
        """Return the chapter that `file` is exported from, or "", and its lines."""
        if file not in self._files:
            try:
                lines = _readable(file).read_text(errors="replace").splitlines()
            except OSError:
                lines = []
            match = _EXPORTED.match(lines[0]) if lines else None
            self._files[file] = (match[1] if match else ""), lines
        return self._files[file]


def _readable(file: str) -> Path:
    """Return where to read `file` now: the library may come from a checkout that is gone, with the same sources."""
    shown = _shown(file)
    try:
        return sources.find_source(shown.removeprefix("csrc/")) if shown.startswith("csrc/") else Path(file)
    except FileNotFoundError:
        return Path(file)


def make_source(file: str, line: int, function: str = "", files: _Files | None = None) -> Source:
    """Describe line `line` of `file`, a path as the compiler knows it."""
    exported, lines = (files or _Files()).read(file)
    text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    return Source(_shown(file), line, function, exported, text)


def _kernel_lines(chain: list[str], files: _Files) -> tuple[Source, ...]:
    """Make sources of addr2line's pairs of a function and a place."""
    frames = []
    for function, place in zip(chain[::2], chain[1::2], strict=False):
        file, _, line = place.partition(" (discriminator")[0].rpartition(":")
        frames.append((file, int(line) if line.isdecimal() else 0, _short(function)))
    of_kernel = [frame for frame in frames if not _is_ours(frame[0])]
    return tuple(make_source(*frame, files) for frame in of_kernel or frames[:1])


def _is_ours(file: str) -> bool:
    return file == "??" or "/csrc/host/" in file or "/include/c++/" in file


def _shown(file: str) -> str:
    """Return the path as a reader knows it: from the repository on, wherever a session keeps its copy."""
    for folder in ("csrc", "notebooks", "tests"):
        before, found, rest = file.rpartition(f"/{folder}/")
        if found and before:
            return f"{folder}/{rest}"
    return file


def _short(function: str) -> str:
    """Return `minisgl::warp::copy` of `void minisgl::warp::copy<512l, 16, 32>(void*, void const*, int)`."""
    previous = None
    while previous != function:
        previous, function = function, re.sub(r"<[^<>]*>", "", function)
    function = function.partition("(")[0] if not function.startswith("(") else function
    return function.rpartition(" ")[2]
