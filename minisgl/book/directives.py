"""The first line of a cell says where its code goes: `%%c++ [-a] [--scratch] PATH` or `#| export PATH`."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from minisgl.book.errors import BookError
from minisgl.book.files import is_hand_written

CPP_MAGIC = "%%c++"
CPP_SUFFIXES = (".cu", ".cuh", ".h", ".hpp", ".cpp", ".cc")
SCRATCH_FOLDER = "csrc/jit"


@dataclass(frozen=True)
class Directive:
    """Where a cell's code goes."""

    language: str
    """`c++` or `python`."""
    path: str
    """The file, relative to the repository, such as `csrc/jit/index.cu`."""
    append: bool
    """Whether the cell continues the file; a Python cell always does."""
    scratch: bool = False
    """Whether the file exists for the session only."""

    @property
    def exported(self) -> bool:
        """Whether `minisgl book export` writes the file."""
        return not self.scratch

    @property
    def title(self) -> str:
        """The path as a reader sees it."""
        return f"scratch: {PurePosixPath(self.path).name}" if self.scratch else self.path


def parse_directive(source: str) -> Directive | None:
    """Return the directive of a code cell, or None if the cell has none. Raises BookError for a bad one."""
    first, *rest = source.split("\n")
    if first.split(maxsplit=1)[:1] == [CPP_MAGIC]:
        return parse_magic(first.removeprefix(CPP_MAGIC))
    if any(re.match(r"#\|\s*export\b", line) for line in rest):
        raise BookError("expected `#| export PATH` in the first line of the cell, found it further down")
    if not first.startswith("#|"):
        return None
    words = first.removeprefix("#|").split()
    if len(words) != 2 or words[0] != "export":
        raise BookError(f"expected `#| export PATH`, got {first!r}")
    return Directive("python", _checked(words[1], "minisgl", (".py",)), append=True)


def parse_magic(line: str) -> Directive:
    """Parse what follows `%%c++`."""
    words = line.split()
    options = [word for word in words if word.startswith("-")]
    paths = [word for word in words if not word.startswith("-")]
    if not set(options) <= {"-a", "--scratch"} or len(paths) != 1:
        got = line.strip() or "nothing"
        raise BookError(f"expected `{CPP_MAGIC} [-a] PATH` or `{CPP_MAGIC} --scratch [-a] NAME`, got {got}")
    path, append = paths[0], "-a" in options
    if "--scratch" not in options:
        return Directive("c++", _checked(path, "csrc", CPP_SUFFIXES), append)
    if "/" in path:
        raise BookError(f"expected the name of a scratch file without a folder, such as naive.cu, got {path}")
    return Directive("c++", _checked(f"{SCRATCH_FOLDER}/{path}", "csrc", CPP_SUFFIXES), append, scratch=True)


def body(source: str) -> str:
    """Return a cell's code without its directive."""
    first, _, rest = source.partition("\n")
    return rest.strip("\n") if first.startswith(("#|", CPP_MAGIC)) else source


def with_body(source: str, code: str) -> str:
    """Return the cell with its directive kept and its code replaced."""
    first = source.partition("\n")[0]
    return f"{first}\n{code}".rstrip("\n") if first.startswith(("#|", CPP_MAGIC)) else code


def _checked(path: str, folder: str, suffixes: tuple[str, ...]) -> str:
    pure = PurePosixPath(path)
    if pure.parts[:1] != (folder,) or len(pure.parts) < 2 or ".." in pure.parts or str(pure) != path:
        raise BookError(f"expected a path below {folder}/, got {path}")
    if is_hand_written(path):
        raise BookError(f"expected a path that a chapter may own, got {path}, which is hand-written")
    if pure.suffix not in suffixes:
        raise BookError(f"expected a file name ending in {', '.join(suffixes)}, got {path}")
    return path
