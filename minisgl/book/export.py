"""Write what the chapters say: exported files, and the two halves of each pair."""

import hashlib
import re
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

from minisgl.book import directives, formatting
from minisgl.book.chapter import Chapter, differences, read, read_markdown, read_notebook, select, stems, strangers
from minisgl.book.errors import BookError
from minisgl.book.files import exportable_files, read_text, write_text
from minisgl.book.pairing import edited_half, remember

_HEADER = re.compile(
    r'(?:#|//) Exported from notebooks/(\w+)\.md by "minisgl book export"; edit it there\. sha256:([0-9a-f]{12})'
)


@dataclass(frozen=True)
class Exported:
    """An exported file, as it is on disk."""

    stem: str
    """The chapter that its header names."""
    digest: str
    body: str

    @property
    def intact(self) -> bool:
        """Whether the body is what was exported: nobody has edited it by hand."""
        return digest(self.body) == self.digest


@dataclass
class Plan:
    """What an export will change; nothing is written before all of it is known to be valid."""

    root: Path
    chapters: list[Chapter] = field(default_factory=list)
    writes: dict[Path, str] = field(default_factory=dict)
    removals: list[Path] = field(default_factory=list)

    def write(self, path: Path, text: str) -> None:
        """Add a file, unless it already reads so."""
        if not path.exists() or path.read_bytes() != text.encode():
            self.writes[path] = text

    def write_pair(self, chapter: Chapter) -> None:
        """Add both halves of a chapter."""
        self.chapters.append(chapter)
        self.write(chapter.markdown_path, chapter.normal_markdown())
        self.write(chapter.notebook_path, chapter.normal_notebook())

    def apply(self) -> list[str]:
        """Write and remove the files; return a line for each."""
        # Chapters first: interrupted here, an exported file is still seen as edited by hand, and nothing is lost.
        for path, text in sorted(self.writes.items(), key=lambda write: write[0].suffix not in (".md", ".ipynb")):
            write_text(path, text)
        for path in self.removals:
            path.unlink()
        remember(self.root, self.chapters)
        written = [f"wrote {path.relative_to(self.root)}" for path in self.writes]
        return written + [f"removed {path.relative_to(self.root)}" for path in self.removals]


def export(root: Path, names: list[str], side: str | None = None, force: bool = False) -> list[str]:
    """Format chapters, write their files and both halves of their pairs; return a line per file changed.

    `side` (`md` or `ipynb`) says which half wins where a pair disagrees; `force` overwrites hand-edited files.
    Raises BookError, with nothing written, if a chapter or a file needs a person.
    """
    if found := strangers(root):
        raise BookError("\n".join(found))
    chapters = [load(root, stem, side) for stem in select(root, names)]
    return plan(root, chapters, force=force, everything=not names).apply()


def load(root: Path, stem: str, side: str | None = None) -> Chapter:
    """Read a chapter from the half of its pair that was edited. If both were, `side` must say which one counts."""
    markdown, notebook = ((root / "notebooks" / f"{stem}{suffix}").is_file() for suffix in (".md", ".ipynb"))
    if side not in (None, "md", "ipynb"):
        raise BookError(f"--from: expected md or ipynb, got {side}")
    if (side == "md" and not markdown) or (side == "ipynb" and not notebook):
        raise BookError(f"notebooks/{stem}.{side}: expected this half of the pair, found only the other")
    if side == "ipynb" or not markdown:
        return read_notebook(root, stem)
    chapter = read_markdown(root, stem)
    if side == "md" or not notebook:
        return chapter
    other = read_notebook(root, stem)
    found = differences(chapter, other)
    if found and (side := edited_half(chapter, other)) is None:
        raise BookError(
            f"notebooks/{stem}: the .md and the .ipynb disagree, and both were edited: {'; '.join(found)}. "
            f'Say which one counts: "minisgl book export {stem} --from md" or "--from ipynb"'
        )
    return other if side == "ipynb" else chapter


def plan(
    root: Path,
    chapters: list[Chapter],
    force: bool = False,
    everything: bool = False,
    accepted: frozenset[str] = frozenset(),
) -> Plan:
    """Work out what exporting `chapters` changes. `accepted` names hand-edited files that may be overwritten."""
    chapters = [formatting.formatted(chapter) for chapter in chapters]
    owners = claims(root, {chapter.stem: chapter for chapter in chapters})
    result = Plan(root)
    for chapter in chapters:
        for path in exported_cells(chapter):
            text = render(chapter, path)
            if not force and path not in accepted:
                _refuse_hand_edit(root, path, text)
            result.write(root / path, text)
        result.write_pair(chapter)
    known, chosen = set(stems(root)), {chapter.stem for chapter in chapters}
    for path in exportable_files(root):
        old = parse_exported(read_text(root / path))
        if path in owners or old is None or not (old.stem in chosen or (everything and old.stem not in known)):
            continue
        if not old.intact and not force:
            raise BookError(
                f"{path}: no chapter exports it any more, and it was edited by hand: expected an untouched file to "
                "remove; move the edit into a chapter and delete the file, or use --force"
            )
        result.removals.append(root / path)
    return result


def _refuse_hand_edit(root: Path, path: str, text: str) -> None:
    file = root / path
    if not file.exists():
        return
    now = read_text(file)
    old, new = parse_exported(now), parse_exported(text)
    if old is None:
        raise BookError(f"{path}: expected an exported file or none, got a file without the export header; use --force")
    if not old.intact and new and old.body != new.body:
        raise BookError(
            f'{path}: edited by hand since its export: run "minisgl book update {path}" to carry the edit into '
            f"notebooks/{old.stem}.md, or use --force to overwrite it"
        )


def exported_cells(chapter: Chapter) -> dict[str, list[int]]:
    """Return the files that a chapter exports, each with the positions of its cells.

    Raises BookError for a bad directive, a file continued before its start, and a file started twice.
    """
    groups: dict[str, list[int]] = {}
    exported = set()
    for index, cell in enumerate(chapter.cells):
        try:
            directive = cell.directive
        except BookError as error:
            raise BookError(f"{chapter.place(cell)}: {error}") from None
        if directive is None:
            continue
        started = directive.path in groups
        if directive.append and not started and directive.language == "c++":
            raise BookError(f"{chapter.place(cell)}: {directive.path}: continued with -a before any cell starts it")
        if started and not directive.append:
            first = chapter.place(chapter.cells[groups[directive.path][0]])
            raise BookError(f"{chapter.place(cell)}: {directive.path}: started twice, first in {first}; add -a")
        if started and (directive.path in exported) != directive.exported:
            raise BookError(f"{chapter.place(cell)}: {directive.path}: expected scratch or exported cells, got both")
        groups.setdefault(directive.path, []).append(index)
        if directive.exported:
            exported.add(directive.path)
    return {path: cells for path, cells in groups.items() if path in exported}


def claims(root: Path, loaded: dict[str, Chapter]) -> dict[str, str]:
    """Return the chapter that exports each file. Raises BookError if two chapters claim one."""
    owners: dict[str, str] = {}
    for stem in sorted({*stems(root), *loaded}):
        chapter = loaded.get(stem) or read(root, stem)
        for path in exported_cells(chapter):
            if path in owners:
                raise BookError(f"{path}: expected one chapter to export it, got {owners[path]} and {stem}")
            owners[path] = stem
    return owners


def digest(body: str) -> str:
    """Return the hash that an exported file's header carries."""
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def header(path: str, stem: str, body: str) -> str:
    """Return the first line of an exported file."""
    comment = "#" if path.endswith(".py") else "//"
    return f'{comment} Exported from notebooks/{stem}.md by "minisgl book export"; edit it there. sha256:{digest(body)}'


def parse_exported(text: str) -> Exported | None:
    """Take an exported file apart; None if it has no export header."""
    first, _, rest = text.partition("\n")
    match = _HEADER.fullmatch(first.rstrip("\r"))
    return Exported(match[1], match[2], rest) if match else None


def render(chapter: Chapter, path: str) -> str:
    """Return the text of an exported file of a formatted chapter."""
    body, _ = body_and_owners(chapter, path)
    return f"{header(path, chapter.stem, body)}\n{body}"


def body_and_owners(chapter: Chapter, path: str) -> tuple[str, list[int | None]]:
    """Return an exported file's text below its header and, for each line, the cell that holds it.

    Blank lines between two cells belong to neither.
    """
    lines: list[str] = [""]
    owners: list[int | None] = [None]
    for index in exported_cells(chapter)[path]:
        code = directives.body(chapter.cells[index].source)
        if not code:
            continue
        if len(lines) > 1:
            gap = 2 if path.endswith(".py") else 1
            lines += [""] * gap
            owners += [None] * gap
        lines += code.split("\n")
        owners += [index] * (len(lines) - len(owners))
    # Formatting the whole settles the blank lines at the seams, such as the one below a module's docstring.
    placeholder = header(path, chapter.stem, "")
    text = formatting.format_file(chapter.root, path, f"{placeholder}\n" + "\n".join(lines) + "\n")
    body = text.removeprefix(f"{placeholder}\n")
    return body, _follow(lines, owners, body.split("\n")[:-1])


def _follow(old: list[str], owners: list[int | None], new: list[str]) -> list[int | None]:
    """Carry the owner of each old line over to the new lines."""
    if old == new:
        return owners
    result: list[int | None] = []
    for change, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if change == "equal":
            result += owners[i1:i2]
        else:
            near = next((owner for owner in owners[i1:i2] if owner is not None), None)
            result += [near if line.strip() else None for line in new[j1:j2]]
    return result
