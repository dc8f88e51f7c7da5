"""Find every way in which chapters, pairs and exported files have drifted apart."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from minisgl.book import formatting
from minisgl.book.chapter import Chapter, differences, read, read_notebook, read_raw_notebook, stems, strangers
from minisgl.book.errors import BookError
from minisgl.book.export import body_and_owners, exported_cells, parse_exported
from minisgl.book.files import exportable_files, read_text


def check(root: Path) -> tuple[list[str], str]:
    """Return one line per finding, and a summary for when there is none."""
    findings = strangers(root)
    owners: dict[str, str] = {}
    names = stems(root)
    for stem in names:
        try:
            chapter = read(root, stem)
            findings += _pair(chapter)
            for path in exported_cells(chapter):
                if path in owners:
                    findings.append(
                        f"{path}: exported by two chapters, notebooks/{owners[path]}.md and notebooks/{stem}.md: "
                        "keep it in one of them"
                    )
                owners.setdefault(path, stem)
            findings += _format_and_files(chapter, owners)
        except BookError as error:
            text = str(error)
            findings.append(text if "notebooks/" in text else f"notebooks/{stem}.md: {text}")
    findings += _orphans(root, owners)
    return findings, f"{len(names)} chapters, {len(owners)} exported files: in step"


def _pair(chapter: Chapter) -> Iterator[str]:
    root, stem = chapter.root, chapter.stem
    name, fix = f"notebooks/{stem}", f'run "minisgl book export {stem}"'
    if not chapter.markdown_path.is_file():
        yield f"{name}.md: missing, only its .ipynb is there: {fix}"
        return
    if not chapter.notebook_path.is_file():
        yield f"{name}.ipynb: missing, only its .md is there: {fix}"
        return
    raw = read_raw_notebook(root, stem)
    run = [i for i, cell in enumerate(raw.cells) if cell.get("outputs") or cell.get("execution_count") is not None]
    if run:
        cells = ", ".join(map(str, run[:5])) + (", ..." if len(run) > 5 else "")
        yield f"{name}.ipynb: outputs or execution counts in {len(run)} cells ({cells}), expected none: {fix}"
    disagreements = differences(chapter, read_notebook(root, stem))
    for difference in disagreements:
        yield f"{name}.ipynb: {difference}: {fix}"
    if disagreements:
        return
    ids = zip_longest([cell.id for cell in chapter.cells], [cell.get("id") for cell in raw.cells])
    for index, (expected, found) in enumerate(ids):
        if found != expected:
            yield f"{name}.ipynb: cell {index}: expected id {expected}, got {found}: {fix}"
            return
    yield from _normal_form(chapter, bool(run), fix)


def _normal_form(chapter: Chapter, has_outputs: bool, fix: str) -> Iterator[str]:
    if read_text(chapter.markdown_path) != chapter.normal_markdown():
        yield f"notebooks/{chapter.stem}.md: not written the way Jupytext writes it: {fix}"
    if not has_outputs and read_text(chapter.notebook_path) != chapter.normal_notebook():
        yield f"notebooks/{chapter.stem}.ipynb: other metadata or layout than its .md gives: {fix}"


def _format_and_files(chapter: Chapter, owners: dict[str, str]) -> Iterator[str]:
    fix = f'run "minisgl book export {chapter.stem}"'
    for cell in formatting.unformatted(chapter):
        yield f"notebooks/{chapter.stem}.md: {chapter.place(cell)}: not formatted: {fix}"
    tidy = formatting.formatted(chapter)
    for path in exported_cells(tidy):
        if owners[path] == chapter.stem and (finding := _exported_file(chapter, tidy, path, fix)):
            yield finding


def _exported_file(chapter: Chapter, tidy: Chapter, path: str, fix: str) -> str | None:
    if not (chapter.root / path).is_file():
        cell = chapter.cells[exported_cells(chapter)[path][0]]
        return f"{path}: missing, though {chapter.place(cell)} exports it: {fix}"
    found = parse_exported(read_text(chapter.root / path))
    if found is None:
        return f"{path}: expected the export header in its first line, got a hand-written file: move it, and {fix}"
    body, owners = body_and_owners(tidy, path)
    cell = chapter.cells[_first_difference(body, found.body, owners)]
    if not found.intact:
        return f'{path}: edited by hand, near {chapter.place(cell)}: run "minisgl book update {path}"'
    if found.body != body:
        return f"{path}: behind its chapter, {chapter.place(cell)} has changed: {fix}"
    if found.stem != chapter.stem:
        return f"{path}: its header names notebooks/{found.stem}.md, expected notebooks/{chapter.stem}.md: {fix}"
    return None


def _first_difference(body: str, found: str, owners: list[int | None]) -> int:
    pairs = zip_longest(body.split("\n"), found.split("\n"))
    line = next((index for index, (left, right) in enumerate(pairs) if left != right), 0)
    known = [owner for owner in owners[: line + 1] if owner is not None]
    return known[-1] if known else next(owner for owner in owners if owner is not None)


def _orphans(root: Path, owners: dict[str, str]) -> Iterator[str]:
    for path in exportable_files(root):
        if path in owners:
            continue
        found = parse_exported(read_text(root / path))
        if found is None:
            yield f"{path}: no chapter exports it: export it from a chapter, or delete it"
        elif found.stem in stems(root):
            yield (
                f"{path}: notebooks/{found.stem}.md no longer exports it: "
                f'run "minisgl book export {found.stem}", which removes it'
            )
        else:
            yield f'{path}: its chapter notebooks/{found.stem}.md is gone: run "minisgl book export", which removes it'
