"""Carry edits made in exported files back into the cells that they came from."""

from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from minisgl.book import directives, formatting
from minisgl.book.chapter import Chapter
from minisgl.book.errors import BookError
from minisgl.book.export import body_and_owners, claims, digest, exported_cells, header, load, parse_exported, plan
from minisgl.book.files import exportable_files, read_text


@dataclass(frozen=True)
class _Edit:
    path: str
    stem: str
    digest: str
    body: str


def update(root: Path, files: list[str]) -> list[str]:
    """Carry the edits of `files`, or of every hand-edited file, into their chapters and export those again.

    Returns a line per file changed. Raises BookError, with nothing written, if an edit cannot be carried back exactly.
    """
    paths = [_relative(root, name) for name in files] or _hand_edited(root)
    edits: dict[str, list[_Edit]] = {}
    for path in paths:
        edit = _read(root, path)
        edits.setdefault(edit.stem, []).append(edit)
    chapters = []
    for stem, changes in edits.items():
        chapter = formatting.formatted(load(root, stem))
        for edit in changes:
            chapter = carry(chapter, edit.path, edit.digest, edit.body)
        chapters.append(chapter)
    return plan(root, chapters, accepted=frozenset(paths)).apply()


def carry(chapter: Chapter, path: str, old_digest: str, edited: str) -> Chapter:
    """Return the chapter with the edit of one of its files taken over. `old_digest` is that of the last export."""
    body, owners = body_and_owners(chapter, path)
    if digest(body) != old_digest:
        raise BookError(
            f"{path}: both changed: the file was edited by hand, and notebooks/{chapter.stem}.md has changed since the "
            f'last export. Copy your edit into the chapter, then run "minisgl book export {chapter.stem} --force"'
        )
    # With a header in its place, the line numbers of a syntax error are those of the file.
    first = header(path, chapter.stem, "")
    target = formatting.format_file(chapter.root, path, f"{first}\n{edited}").removeprefix(f"{first}\n")
    cells = exported_cells(chapter)[path]
    texts = _distribute(body.split("\n")[:-1], owners, target.rstrip("\n").split("\n"), cells)
    sources = {index: directives.with_body(chapter.cells[index].source, text) for index, text in texts.items()}
    result = formatting.formatted(chapter.with_sources(sources))
    if exported_cells(result).get(path) != cells or not _same(body_and_owners(result, path)[0], target):
        raise BookError(
            f"{path}: the edit cannot be carried back exactly, so nothing was written. Expected the chapter to export "
            f"the edited text; make the edit in notebooks/{chapter.stem}.md instead"
        )
    return result


def _distribute(old: list[str], owners: list[int | None], new: list[str], cells: list[int]) -> dict[int, str]:
    """Give each new line to a cell: that of the line it stands for or, for an inserted line, that of its neighbour."""
    texts: dict[int, list[str]] = {index: [] for index in cells}
    previous = next((owner for owner in owners if owner is not None), cells[0])
    for change, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for offset, line in enumerate(new[j1:j2]):
            if change == "insert":
                # Below a blank seam the text opens the next cell; elsewhere it goes on with what stands above it.
                owner = owners[i1] if 0 < i1 < len(owners) and owners[i1 - 1] is None else None
            else:
                owner = owners[min(i1 + offset, i2 - 1)]
            previous = previous if owner is None else owner
            texts[previous].append(line)
    return {index: "\n".join(lines).strip("\n") for index, lines in texts.items()}


def _same(left: str, right: str) -> bool:
    # The seams between cells have a fixed number of blank lines, whatever an editor left there.
    return [line for line in left.split("\n") if line.strip()] == [line for line in right.split("\n") if line.strip()]


def _relative(root: Path, name: str) -> str:
    for file in (Path.cwd() / name, root / name):
        if file.is_file() and file.resolve().is_relative_to(root.resolve()):
            return file.resolve().relative_to(root.resolve()).as_posix()
    raise BookError(f"expected an exported file below {root}, got {name}")


def _hand_edited(root: Path) -> list[str]:
    found = {path: parse_exported(read_text(root / path)) for path in exportable_files(root)}
    return [path for path, file in found.items() if file and not file.intact]


def _read(root: Path, path: str) -> _Edit:
    found = parse_exported(read_text(root / path))
    if found is None:
        raise BookError(f"{path}: expected the export header in its first line; put it back or edit the chapter")
    owner = claims(root, {}).get(path)
    if owner != found.stem:
        raise BookError(f"{path}: expected notebooks/{found.stem}.md to export it, got {owner or 'no chapter'}")
    return _Edit(path, found.stem, found.digest, found.body)
