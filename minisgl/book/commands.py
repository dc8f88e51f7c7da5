"""The `minisgl book` commands: arguments in, lines out."""

from typing import Annotated

import typer

from minisgl.book.files import find_root

app = typer.Typer(no_args_is_help=True, help="Work on the chapters that the package is exported from.")

Chapters = Annotated[list[str] | None, typer.Argument(help="05, 05_index or a path; all chapters if left out.")]


@app.command("export")
def export_command(
    chapters: Chapters = None,
    side: Annotated[str | None, typer.Option("--from", help="md or ipynb: the half that wins.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite hand-edited files.")] = False,
) -> None:
    """Format chapters, and write their exported files and both halves of their pairs."""
    from minisgl.book.export import export

    _say(export(find_root(), chapters or [], side, force), "nothing to write: everything is in step")


@app.command("check")
def check_command() -> None:
    """Fail if a chapter, its pair or an exported file has drifted."""
    from minisgl.book.check import check

    findings, summary = check(find_root())
    _say(findings, summary)
    if findings:
        raise typer.Exit(1)


@app.command("update")
def update_command(
    files: Annotated[
        list[str] | None, typer.Argument(help="Exported files; every hand-edited one if left out.")
    ] = None,
) -> None:
    """Carry edits made in exported files back into their chapters."""
    from minisgl.book.update import update

    _say(update(find_root(), files or []), "no exported file was edited by hand")


@app.command("new")
def new_command(title: Annotated[str, typer.Argument(help="The chapter's title.")]) -> None:
    """Write the outline of a new chapter."""
    from minisgl.book.template import new

    lines = new(find_root(), title)
    page = lines[0].removeprefix("wrote notebooks/")
    _say([*lines, f"next: add chapters/{page} to nav in mkdocs.yml"], "")


@app.command("list")
def list_command() -> None:
    """List the chapters, their titles and the files that they export."""
    from minisgl.book.export import exported_cells, load, stems

    root = find_root()
    chapters = [load(root, stem) for stem in stems(root)]
    rows = [(chapter.stem, chapter.title, ", ".join(exported_cells(chapter))) for chapter in chapters]
    rows.insert(0, ("chapter", "title", "exports"))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for stem, title, exports in rows:
        typer.echo(f"{stem:<{widths[0]}}  {title:<{widths[1]}}  {exports}".rstrip())


@app.command("build")
def build_command(chapters: Chapters = None) -> None:
    """Execute chapters and write their pages into docs/chapters/."""
    from minisgl.book.execute import build

    build(find_root(), chapters or [], progress=typer.echo)


def _say(lines: list[str], otherwise: str) -> None:
    for line in lines or [otherwise]:
        typer.echo(line)
