"""Exported code is formatted code: ruff for Python, clang-format for C++."""

import json
import re
import shutil
import subprocess
import sysconfig
from functools import lru_cache
from pathlib import Path

from minisgl.book import directives
from minisgl.book.chapter import Cell, Chapter
from minisgl.book.errors import BookError

_MARKER = "// minisgl-cell-boundary-{}"


def formatted(chapter: Chapter) -> Chapter:
    """Return the chapter with every Python and C++ cell formatted; the same object if nothing changes."""
    changed = _changes(chapter)
    return chapter.with_sources(changed) if changed else chapter


def unformatted(chapter: Chapter) -> list[Cell]:
    """Return the cells that the formatters would change."""
    return [chapter.cells[index] for index in sorted(_changes(chapter))]


def _changes(chapter: Chapter) -> dict[int, str]:
    sources = {**_python_sources(chapter), **_cpp_sources(chapter)}
    return {index: text for index, text in sources.items() if text != chapter.cells[index].source.rstrip("\n")}


def format_file(root: Path, path: str, text: str) -> str:
    """Format one exported file."""
    return (_ruff if path.endswith(".py") else _clang_format)(root, path, text)


def _python_sources(chapter: Chapter) -> dict[int, str]:
    cells = {
        index: directives.body(cell.source)
        for index, cell in enumerate(chapter.cells)
        if cell.kind == "code" and not cell.source.startswith(directives.CPP_MAGIC)
    }
    if not cells:
        return {}
    code = [_code_cell(text) for text in cells.values()]
    notebook = {"cells": code, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    try:
        result = json.loads(_ruff(chapter.root, f"notebooks/{chapter.stem}.ipynb", json.dumps(notebook)))
    except BookError as error:
        raise BookError(_name_cell(str(error), chapter, list(cells))) from None
    return {
        index: directives.with_body(chapter.cells[index].source, "".join(cell["source"]).strip("\n"))
        for index, cell in zip(cells, result["cells"], strict=True)
    }


def _code_cell(text: str) -> dict[str, object]:
    return {"cell_type": "code", "metadata": {}, "source": text, "outputs": [], "execution_count": None}


def _name_cell(message: str, chapter: Chapter, cells: list[int]) -> str:
    # ruff counts the code cells that it was given, from 1.
    match = re.search(r"cell (\d+)|\.ipynb:(\d+):\d+:\d+", message)
    if not match:
        return message
    cell = chapter.cells[cells[int(match[1] or match[2]) - 1]]
    return f"{chapter.place(cell)}: expected Python that ruff can format: {message}"


def _cpp_sources(chapter: Chapter) -> dict[int, str]:
    groups: dict[str, list[int]] = {}
    for index, cell in enumerate(chapter.cells):
        if (directive := cell.directive) and directive.language == "c++":
            groups.setdefault(directive.path, []).append(index)
    found = {}
    for path, indices in groups.items():
        bodies = _format_parts(chapter.root, path, [directives.body(chapter.cells[index].source) for index in indices])
        for index, body in zip(indices, bodies, strict=True):
            found[index] = directives.with_body(chapter.cells[index].source, body)
    return found


def _format_parts(root: Path, path: str, parts: list[str]) -> list[str]:
    """Format the cells of one file together: a namespace may open in one cell and close in another."""
    text = ""
    for number, part in enumerate(parts):
        text += f"{_MARKER.format(number)}\n\n{part}\n\n"
    result: list[list[str]] = []
    for line in _clang_format(root, path, text).split("\n"):
        if line.strip() == _MARKER.format(len(result)):
            result.append([])
        elif result:
            result[-1].append(line)
    if len(result) != len(parts):
        raise BookError(f"{path}: expected every cell to end with a complete line; clang-format joined two of them")
    return ["\n".join(lines).strip("\n") for lines in result]


def _ruff(root: Path, path: str, text: str) -> str:
    return _run(root, ("ruff", "format", "--no-cache", "--stdin-filename", str(root / path), "-"), text)


def _clang_format(root: Path, path: str, text: str) -> str:
    return _run(root, ("clang-format", "--style=file", f"--assume-filename={root / path}"), text)


@lru_cache(maxsize=512)
def _run(root: Path, command: tuple[str, ...], text: str) -> str:
    tool = shutil.which(command[0], path=sysconfig.get_path("scripts")) or shutil.which(command[0])
    if tool is None:
        raise BookError(f'expected {command[0]} beside Python or on PATH, found none: pip install "minisgl[book]"')
    done = subprocess.run([tool, *command[1:]], input=text, capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        raise BookError(done.stderr.strip() or f"{command[0]} failed with exit code {done.returncode}")
    return done.stdout
