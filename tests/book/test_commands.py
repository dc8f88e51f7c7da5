"""The command line: what it prints, and how it ends."""

import sys

import pytest
from typer.testing import CliRunner

from minisgl import cli
from minisgl.book.check import check
from minisgl.book.errors import BookError


@pytest.fixture
def run(book, monkeypatch):
    monkeypatch.chdir(book.root / "notebooks")
    assert cli.app is not None
    app = cli.app

    def command(*words):
        return CliRunner().invoke(app, ["book", *words])

    return command


def test_new(book, run):
    result = run("new", "Radix  Cache: the tree")
    assert (result.exit_code, result.output) == (
        0,
        "wrote notebooks/07_radix_cache_the_tree.md\nwrote notebooks/07_radix_cache_the_tree.ipynb\n"
        "next: add chapters/07_radix_cache_the_tree.md to nav in mkdocs.yml\n",
    )
    text = book.read("notebooks/07_radix_cache_the_tree.md")
    assert "# Radix Cache: the tree\n" in text
    assert text.count("\n## ") == text.count("\n<!-- ") == 12
    assert check(book.root)[0] == []


def test_new_does_not_overwrite(book, run):
    before = book.snapshot()
    result = run("new", "Index")
    assert isinstance(result.exception, BookError)
    assert str(result.exception) == "expected a title that is not taken, got 'Index', which is notebooks/05_index.md"
    assert book.snapshot() == before


def test_new_wants_a_title(run):
    assert "a letter or a digit" in str(run("new", "...").exception)


def test_list(run):
    assert run("list").output.splitlines() == [
        "chapter   title  exports",
        "05_index  Index  csrc/jit/index.cu, minisgl/kernel/index.py",
        "06_store  Store  minisgl/kernel/store.py",
    ]


def test_check_and_export(book, run):
    result = run("check")
    assert (result.exit_code, result.output) == (0, "2 chapters, 3 exported files: in step\n")
    (book.root / "minisgl/kernel/store.py").unlink()
    result = run("check")
    assert result.exit_code == 1
    assert "minisgl/kernel/store.py: missing" in result.output
    result = run("export", "06")
    assert (result.exit_code, result.output) == (0, "wrote minisgl/kernel/store.py\n")
    assert run("export").output == "nothing to write: everything is in step\n"


def test_update(book, run):
    book.replace("csrc/jit/index.cu", "return n;", "return n + 1;")
    assert "wrote notebooks/05_index.md\n" in run("update", "csrc/jit/index.cu").output
    assert run("check").exit_code == 0


def test_main_turns_an_error_into_one_message(monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "argv", ["minisgl", "book", "check"])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == (
        "minisgl: expected a folder with notebooks/ and pyproject.toml at or above /, found none"
    )


def test_main_without_typer(monkeypatch):
    monkeypatch.setattr(cli, "app", None)
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert 'pip install "minisgl[book]"' in str(exit_info.value.code)
