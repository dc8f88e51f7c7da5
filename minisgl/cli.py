"""The `minisgl` command."""

import sys

from minisgl.book.errors import BookError

try:
    import typer
except ModuleNotFoundError:
    app: "typer.Typer | None" = None
else:
    from minisgl.book.commands import app as book

    app = typer.Typer(no_args_is_help=True, add_completion=False, help="A cookbook of GPU kernels for LLM inference.")
    app.add_typer(book, name="book")


def main() -> None:
    """Run the command line; what a person has to put right is one message, without a traceback."""
    if app is None:
        sys.exit('minisgl: the command line needs the book\'s tools: pip install "minisgl[book]"')
    try:
        app()
    except (BookError, OSError) as error:
        sys.exit(f"minisgl: {error}")


if __name__ == "__main__":
    main()
