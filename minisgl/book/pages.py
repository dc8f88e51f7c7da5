"""Turn an executed chapter into a Markdown page of the site."""

import base64
import re
import shutil
from pathlib import Path
from textwrap import indent

import nbformat

from minisgl.book import directives
from minisgl.book.chapter import Cell, Chapter, read, stems
from minisgl.book.export import exported_cells
from minisgl.book.files import write_text
from minisgl.book.links import rewrite_links

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PICTURES = {"image/svg+xml": "svg", "image/png": "png"}
MANY_FILES = 12  # a longer list of exported files is folded


class Page:
    """A page in the making: its text, and the pictures that go into a folder of its name."""

    def __init__(self, chapter: Chapter) -> None:
        self.chapter = chapter
        self.pictures: dict[str, bytes] = {}
        self.copies: dict[str, Path] = {}
        self.parts: list[str] = []

    def add(self, cell: Cell, node: nbformat.NotebookNode) -> None:
        """Add a cell and what it put out."""
        if "hidden" in cell.tags or cell.kind == "raw":
            return
        text = _code(cell) if cell.kind == "code" else self.prose(cell.source)
        if text:
            self.parts.append(_fold(cell, text) if "folded" in cell.tags else text)
        for output in _joined(node.get("outputs", [])):
            if shown := self.output(cell, output):
                self.parts.append(shown)

    def prose(self, text: str) -> str:
        """Return a Markdown cell for the site: what is folded in it is Markdown there too."""
        return rewrite_links(self.chapter.root, text, self.copies).replace("<details>", '<details markdown="1">')

    def output(self, cell: Cell, output: nbformat.NotebookNode) -> str:
        """Return the Markdown of one output, or nothing."""
        if output.output_type == "stream":
            return _fence(output.text, ".text .output") if output.name == "stdout" else ""
        if output.output_type == "error":
            return _fence("\n".join(output.traceback), ".text .output")
        if "currentColor" in (svg := output.data.get("image/svg+xml", "")):
            return _html(output.data.get("text/html", svg))
        for kind, suffix in _PICTURES.items():
            if kind in output.data:
                return self.picture(cell, output.data[kind], suffix)
        if "text/markdown" in output.data:
            return rewrite_links(self.chapter.root, output.data["text/markdown"], self.copies)
        if "text/html" in output.data:
            return _html(output.data["text/html"])
        return _fence(output.data.get("text/plain", ""), ".text .output")

    def picture(self, cell: Cell, data: str, suffix: str) -> str:
        """Keep a picture for its file and return the Markdown that shows it."""
        name = f"{cell.id.rpartition('-')[2]}-{len(self.pictures)}.{suffix}"
        self.pictures[name] = data.encode() if suffix == "svg" else base64.b64decode(data)
        return f"![Output of the cell above](@page/{name})"

    def text(self) -> str:
        """Return the whole page, with the list of exported files below its heading."""
        text = "\n\n".join(self.parts)
        if paths := list(exported_cells(self.chapter)):
            line = "This chapter writes " + ", ".join(f"`{path}`" for path in paths)
            if len(paths) > MANY_FILES:
                line = f'??? note "This chapter writes {len(paths)} files"\n\n{indent(line, "    ")}'
            text = re.sub(r"^# .+$", lambda match: f"{match[0]}\n\n{line}", text, count=1, flags=re.MULTILINE)
        return text.replace("](@page/", f"]({self.chapter.stem}/") + "\n"


def without_colours(text: str) -> str:
    """Take out the escape sequences that colour a text in a terminal."""
    return _ANSI.sub("", text)


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join what one stream wrote in a row: a kernel sends it in pieces, cut wherever its timer fired."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1] = nbformat.from_dict({**joined[-1], "text": joined[-1].text + output.text})
        else:
            joined.append(output)
    return joined


def write_page(chapter: Chapter, notebook: nbformat.NotebookNode) -> None:
    """Write the page of an executed chapter, and its pictures, into `docs/chapters/`."""
    page = Page(chapter)
    for cell, node in zip(chapter.cells, notebook.cells, strict=True):
        page.add(cell, node)
    text = page.text()
    folder = chapter.root / "docs" / "chapters" / chapter.stem
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in page.pictures.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for name, file in page.copies.items():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    write_text(folder.with_suffix(".md"), text)


def write_index(root: Path) -> None:
    """Write the list of all chapters that have a page; pages of chapters that are gone are removed."""
    folder = root / "docs" / "chapters"
    known = stems(root)
    for page in folder.glob("[0-9][0-9]_*.md"):
        if page.stem not in known:
            page.unlink()
            shutil.rmtree(folder / page.stem, ignore_errors=True)
    entries = ["# Chapters"]
    for stem in known:
        if (folder / f"{stem}.md").is_file():
            chapter = read(root, stem)
            entries.append(f"## [{int(stem[:2])}. {chapter.title}]({stem}.md)\n\n{_first_paragraph(chapter)}".rstrip())
    write_text(folder / "index.md", "\n\n".join(entries) + "\n")


def _first_paragraph(chapter: Chapter) -> str:
    for cell in chapter.cells:
        for paragraph in cell.source.split("\n\n") if cell.kind == "markdown" else ():
            prose = "\n".join(line for line in paragraph.strip().split("\n") if not line.startswith("#")).strip()
            if prose and not prose.startswith(("<!--", "|", "```", "![", "> ")):
                return rewrite_links(chapter.root, prose, {})
    return ""


def _html(text: str) -> str:
    """Put HTML into the page as it is: so must a drawing in the page's own colour, which an image would not know."""
    return f'<div class="output" markdown="0">\n{text.strip()}\n</div>'


def _code(cell: Cell) -> str:
    directive = cell.directive
    code = directives.body(cell.source)
    if not code.strip() or code.strip() == "%load_ext minisgl.book":
        return ""
    if directive is None:
        match = re.match(r"%%(bash|sh|html|javascript)\b.*\n", code)
        return _fence(code[match.end() :], match[1]) if match else _fence(code, "python")
    language = "cpp" if directive.language == "c++" else "python"
    return _fence(code, f'.{language} title="{directive.title}"')


def _fence(code: str, attributes: str) -> str:
    """Fence code, with more backticks than any line of it starts with."""
    code = without_colours(code).rstrip("\n")
    if not code:
        return ""
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", code))])
    opening = f"{{ {attributes} }}" if attributes.startswith(".") else attributes
    return f"{ticks}{opening}\n{code}\n{ticks}"


def _fold(cell: Cell, text: str) -> str:
    """Fold a cell under its file's name, its first comment, or its heading."""
    title = "Code" if cell.kind == "code" else "Details"
    if cell.kind == "code" and (directive := cell.directive):
        title = directive.title.replace("__", r"\_\_")  # or __init__ would be init in bold
    elif match := re.match(r"#+ (.+)\n*" if cell.kind == "markdown" else r"# (.+)", cell.source):
        title = match[1].strip()
        text = text[match.end() :] if cell.kind == "markdown" else text
    title = title.replace('"', "'")
    return f'??? note "{title}"\n\n{indent(text, "    ")}'
