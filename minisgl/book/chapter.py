"""A chapter: Jupytext Markdown, its cells with their line numbers, and its paired notebook."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import jupytext
import nbformat
from jupytext.config import JupytextConfiguration, load_jupytext_config

from minisgl.book.directives import CPP_MAGIC, Directive, parse_directive
from minisgl.book.errors import BookError
from minisgl.book.files import read_text

_NAME = re.compile(r"\d\d_\w+")
_KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}  # as JupyterLab writes
_CONFLICT = re.compile(r"^(<{7}|>{7}) .*$", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """One cell of a chapter."""

    kind: str
    """`code`, `markdown` or `raw`."""
    source: str
    tags: tuple[str, ...]
    id: str
    line: int
    """The line in the `.md` of the first line of text; of a C++ cell, of the first line of code."""

    @property
    def directive(self) -> Directive | None:
        """Where the cell's code goes. Raises BookError for a bad directive."""
        return parse_directive(self.source) if self.kind == "code" else None


@dataclass(frozen=True)
class Chapter:
    """A chapter as its Markdown text says it."""

    root: Path
    stem: str
    """The name without its suffix, such as `05_index`."""
    text: str
    cells: tuple[Cell, ...]
    notebook: nbformat.NotebookNode

    @property
    def markdown_path(self) -> Path:
        """The `.md` file."""
        return self.root / "notebooks" / f"{self.stem}.md"

    @property
    def notebook_path(self) -> Path:
        """The `.ipynb` file."""
        return self.markdown_path.with_suffix(".ipynb")

    @property
    def title(self) -> str:
        """The first heading, or the name of a chapter that has none."""
        for cell in self.cells:
            if cell.kind == "markdown" and (match := re.search(r"^# (.+)$", cell.source, re.MULTILINE)):
                return match[1].strip()
        return self.stem

    def place(self, cell: Cell) -> str:
        """Name a cell for a message: its id and its line in the `.md`."""
        return f"cell {cell.id} (notebooks/{self.stem}.md:{cell.line})"

    def normal_markdown(self) -> str:
        """Return the `.md` as Jupytext itself writes it, from JupyterLab or from its command line."""
        return jupytext.writes(self.notebook, fmt="md", config=_config(self.root))

    def normal_notebook(self) -> str:
        """Return the `.ipynb`: ids by position, no outputs, only the metadata that the `.md` holds."""
        return jupytext.writes(self.notebook, fmt="ipynb", config=_config(self.root)).rstrip("\n") + "\n"

    def with_sources(self, sources: Mapping[int, str]) -> "Chapter":
        """Return the chapter with the text of some cells, given by position, replaced."""
        notebook = nbformat.reads(self.normal_notebook(), as_version=4)
        for index, source in sources.items():
            notebook.cells[index].source = source
        return parse(self.root, self.stem, jupytext.writes(notebook, fmt="md", config=_config(self.root)))


def stems(root: Path) -> list[str]:
    """Return the names of all chapters, in reading order."""
    files = [*(root / "notebooks").glob("*.md"), *(root / "notebooks").glob("*.ipynb")]
    return sorted({file.stem for file in files if _NAME.fullmatch(file.stem)})


def strangers(root: Path) -> list[str]:
    """Return a line for each file in `notebooks/` that looks like a chapter and has no chapter's name."""
    files = sorted(file for suffix in (".md", ".ipynb") for file in (root / "notebooks").glob(f"*{suffix}"))
    return [
        f"notebooks/{file.name}: expected a name such as 05_index{file.suffix}; rename it or keep it elsewhere"
        for file in files
        if not _NAME.fullmatch(file.stem)
    ]


def select(root: Path, names: list[str]) -> list[str]:
    """Return the chapters that `names` stand for: `05`, `05_index` or a path; all of them if there is no name."""
    known = stems(root)
    chosen = set()
    for name in names:
        wanted = Path(name).name.removesuffix(".md").removesuffix(".ipynb")
        found = [stem for stem in known if wanted in (stem, stem[:2])]
        if len(found) != 1:
            raise BookError(f"expected a chapter ({', '.join(known) or 'there is none'}), got {name}")
        chosen.update(found)
    return sorted(chosen) if names else known


def parse(root: Path, stem: str, text: str) -> Chapter:
    """Make a chapter from the text of its `.md`."""
    text = text.rstrip("\n") + "\n"  # Jupytext would make a cell of empty lines, longer with every export
    notebook = jupytext.reads(text, fmt="md", config=_config(root))
    if (language := notebook.metadata.get("kernelspec", {}).get("language")) != "python":
        # Without it Jupytext takes the language of most cells, which may be C++, for the notebook's own.
        raise BookError(f"notebooks/{stem}.md: expected a header with a Python kernelspec, got {language or 'none'}")
    notebook.metadata.kernelspec = nbformat.NotebookNode(_KERNELSPEC)
    if marker := _CONFLICT.search(text):
        raise BookError(f"notebooks/{stem}.md: a merge conflict is not resolved: {marker[0]!r}")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{stem}-{index:02d}"
        cell.metadata = nbformat.NotebookNode({key: cell.metadata[key] for key in ("tags",) if key in cell.metadata})
    lines = _first_lines(text.split("\n"), notebook.cells)
    cells = tuple(
        Cell(cell.cell_type, cell.source, tuple(cell.metadata.get("tags", ())), cell.id, line)
        for cell, line in zip(notebook.cells, lines, strict=True)
    )
    return Chapter(root, stem, text, cells, notebook)


def read_markdown(root: Path, stem: str) -> Chapter:
    """Read a chapter from its `.md`."""
    path = root / "notebooks" / f"{stem}.md"
    text = read_text(path)
    try:
        return parse(root, stem, text)
    except BookError:
        raise
    except Exception as error:
        raise BookError(f"{path.relative_to(root)}: expected Jupytext Markdown: {error}") from error


def read(root: Path, stem: str) -> Chapter:
    """Read a chapter from its `.md` or, if there is none, from its `.ipynb`."""
    return read_markdown(root, stem) if (root / "notebooks" / f"{stem}.md").is_file() else read_notebook(root, stem)


def read_raw_notebook(root: Path, stem: str) -> nbformat.NotebookNode:
    """Read the `.ipynb` as it is on disk, outputs and all."""
    path = root / "notebooks" / f"{stem}.ipynb"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nbformat.reads(read_text(path), as_version=4)
    except BookError:
        raise
    except Exception as error:
        raise BookError(f"{path.relative_to(root)}: expected a notebook: {error}") from error


def read_notebook(root: Path, stem: str) -> Chapter:
    """Read a chapter from its `.ipynb`, outputs ignored."""
    notebook = read_raw_notebook(root, stem)
    for index, cell in enumerate(notebook.cells):
        if cell.get("attachments"):
            raise BookError(
                f"notebooks/{stem}.ipynb: cell {index}: expected no attachments, which a .md cannot hold; "
                "save the picture as a file beside the chapter and link to it"
            )
    return parse(root, stem, jupytext.writes(notebook, fmt="md", config=_config(root)))


def differences(markdown: Chapter, notebook: Chapter) -> list[str]:
    """Say which cells of a pair differ; nothing if they agree."""
    left, right = ([(cell.kind, cell.source, cell.tags) for cell in side.cells] for side in (markdown, notebook))
    found = []
    for change, i1, i2, j1, j2 in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if change == "equal":
            continue
        same = min(i2 - i1, j2 - j1)
        found += [f"{markdown.place(cell)} differs" for cell in markdown.cells[i1 : i1 + same]]
        found += [f"{markdown.place(cell)} is only in the .md" for cell in markdown.cells[i1 + same : i2]]
        found += [f"cell {index} is only in the .ipynb" for index in range(j1 + same, j2)]
    return found


def _config(root: Path) -> JupytextConfiguration:
    return load_jupytext_config(str(root / "notebooks" / "chapter.md")) or JupytextConfiguration(
        formats="ipynb,md",
        cell_metadata_filter="tags,-all",
        notebook_metadata_filter="kernelspec,-jupytext.text_representation.jupytext_version",
    )


def _first_lines(lines: list[str], cells: list[nbformat.NotebookNode]) -> list[int]:
    # Jupytext keeps no line numbers, but it keeps the order and the text: look each cell up after the one before.
    position = _header_end(lines)
    found = []
    for cell in cells:
        text = cell.source.split("\n")
        if cell.cell_type == "code" and text[0].startswith(CPP_MAGIC):
            text = text[1:] or [""]
        fences = 1 if cell.cell_type == "code" else 0
        start = _find(lines, text, position, fences) if text else None
        if start is None and cell.cell_type == "code":
            start = _find(lines, text[1:], position, fences)
        found.append((position if start is None else start) + 1)
        position = position if start is None else start + len(text) + fences
    return found


def _find(lines: list[str], text: list[str], position: int, fences: int) -> int | None:
    for start in range(position + fences, len(lines) - len(text) + 1):
        if lines[start : start + len(text)] == text and (not fences or re.match(r"(```|~~~)", lines[start - 1])):
            return start
    return None


def _header_end(lines: list[str]) -> int:
    if lines[:1] == ["---"] and "---" in lines[1:]:
        return lines.index("---", 1) + 1
    return 0
