"""`%%c++` in a real IPython shell: every cell of a file counts exactly once, in its place."""

import re
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from minisgl.book.chapter import read_markdown
from minisgl.compile import CompileError, sources

FILE = "csrc/jit/index.cu"
LAST = "int last() { return 1; }\n}  // namespace minisgl"


class Session:
    """A shell with the extension loaded, and what it made of the sources."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path | None) -> None:
        self.overlays: dict[str, str] = {}
        self.cell_id: str | None = None
        monkeypatch.setattr(sources, "repository_root", lambda: root)
        monkeypatch.setattr(sources, "set_overlay", self.overlays.__setitem__)
        InteractiveShell.clear_instance()
        self.shell = InteractiveShell.instance()
        self.shell.run_line_magic("load_ext", "minisgl.book")
        monkeypatch.setattr("minisgl.book.magic._frontend_id", lambda shell: self.cell_id)

    def run(self, line: str, text: str, cell_id: str | None = None) -> None:
        self.cell_id = cell_id
        result = self.shell.run_cell(f"%%c++ {line}\n{text}\n")
        assert result.success, result.error_in_exec

    def text(self, path: str = FILE) -> str:
        """The code that would be compiled, without line directives."""
        return re.sub(r"#line .*\n", "", self.overlays[path])


@pytest.fixture
def session(book, monkeypatch):
    yield Session(monkeypatch, book.root)
    InteractiveShell.clear_instance()


@pytest.fixture
def lone_session(monkeypatch):
    """A session without a repository."""
    yield Session(monkeypatch, None)
    InteractiveShell.clear_instance()


START = "#include <cstdint>\n\nnamespace minisgl {"
ROWS = "int rows(int n) { return n; }"
WHOLE = f"{START}\n{ROWS}\n{LAST}\n"


def test_an_unedited_cell_gives_the_whole_file(session):
    session.run(f"-a {FILE}", ROWS)
    assert session.text() == WHOLE


def test_an_edited_cell_takes_its_place_however_often_it_runs(session):
    for _ in range(3):
        session.run(f"-a {FILE}", "int rows(int n) { return n + 1; }", "05_index-04")
    assert session.text() == WHOLE.replace("return n;", "return n + 1;")
    session.run(f"-a {FILE}", ROWS, "05_index-04")
    assert session.text() == WHOLE


@pytest.mark.parametrize("ids", [True, False])
def test_edits_of_other_cells_persist_in_any_order(session, ids):
    session.run(f"-a {FILE}", LAST.replace("1", "2"), "05_index-05" if ids else None)
    session.run(f"-a {FILE}", ROWS.replace("return n", "return n + 1"), "05_index-04" if ids else None)
    session.run(FILE, START.replace("cstdint", "cstddef"), "05_index-02" if ids else None)
    session.run(f"-a {FILE}", LAST.replace("1", "3"), "05_index-05" if ids else None)
    expected = WHOLE.replace("return n", "return n + 1").replace("return 1", "return 3").replace("cstdint", "cstddef")
    assert session.text() == expected


def test_an_id_finds_a_cell_that_was_rewritten(session):
    session.run(f"-a {FILE}", "struct Everything { float other[4]; };", "05_index-04")
    assert session.text() == WHOLE.replace(ROWS, "struct Everything { float other[4]; };")


def test_a_new_cell_is_appended_once(session):
    session.run(f"-a {FILE}", "struct Extra {};", "new-id")
    session.run(f"-a {FILE}", "struct Extra { float f; };", "new-id")
    assert session.text() == WHOLE + "struct Extra { float f; };\n"


def test_a_new_cell_saved_later_counts_once(book, session):
    session.run(f"-a {FILE}", "struct Extra {};", "new-id")
    text = book.read("notebooks/05_index.md")
    cell = f'```c++ magic_args="-a {FILE}"\nstruct Extra {{}};\n```\n\n'
    start = text.index('```c++ magic_args="-a csrc/jit/index.cu"\nint last')
    book.write("notebooks/05_index.md", text[:start] + cell + text[start:])
    session.run(f"-a {FILE}", ROWS, "05_index-04")
    assert session.text() == f"{START}\n{ROWS}\nstruct Extra {{}};\n{LAST}\n"


def test_an_edit_saved_later_counts_once(book, session):
    session.run(f"-a {FILE}", ROWS.replace("return n", "return n + 1"))
    book.replace("notebooks/05_index.md", "return n;", "return n + 1;")
    session.run(f"-a {FILE}", LAST)
    assert session.text() == WHOLE.replace("return n;", "return n + 1;")


def test_a_cell_run_unedited_follows_the_chapter(book, session):
    session.run(f"-a {FILE}", ROWS)
    book.replace("notebooks/05_index.md", "return n;", "return n + 5;")
    session.run(f"-a {FILE}", LAST)
    assert session.text() == WHOLE.replace("return n;", "return n + 5;")


def test_another_start_replaces_the_start(session):
    session.run(FILE, "namespace other {", "new-id")
    assert session.text() == f"namespace other {{\n{ROWS}\n{LAST}\n"


def test_ids_shifted_by_an_export_do_not_mislead(book, session):
    # The chapter's cells moved down by one on disk; the open notebook still sends the old ids.
    book.replace("notebooks/05_index.md", "The kernel.", 'The kernel.\n\n```python\n"new"\n```')
    (book.root / "notebooks/05_index.ipynb").unlink()
    session.run(f"-a {FILE}", ROWS, "05_index-04")
    session.run(f"-a {FILE}", LAST, "05_index-05")
    session.run(f"-a {FILE}", LAST.replace("1", "2"), "05_index-05")
    assert session.text() == WHOLE.replace("return 1", "return 2")


def test_the_repository_is_left_alone(book, session):
    before = book.snapshot()
    session.run(f"-a {FILE}", "int rows;", "05_index-04")
    assert book.snapshot() == before


def test_line_directives_point_into_the_chapter(book, session):
    session.run(f"-a {FILE}", ROWS.replace("return n", "return n + 1"), "05_index-04")
    path = book.root / "notebooks/05_index.md"
    lines = dict(re.findall(r'#line (\d+) "(.*)"', session.overlays[FILE]))
    chapter = read_markdown(book.root, "05_index")
    cells = [cell for cell in chapter.cells if cell.directive and cell.directive.path == FILE]
    assert list(lines) == [str(cell.line) for cell in cells]
    start, edited, last = lines.values()
    assert start == last == str(path)
    assert re.search(r"/cell-\d+/notebooks/05_index.md$", edited)
    with open(edited) as file:
        assert file.read().split("\n")[cells[1].line - 1] == "int rows(int n) { return n + 1; }"


def test_scratch_is_what_has_run(session):
    session.run("--scratch naive.cu", "int naive;")
    assert session.text("csrc/jit/naive.cu") == "int naive;\n"
    session.run("--scratch -a naive.cu", "int more;")
    session.run("--scratch naive.cu", "int naive = 1;")
    assert session.text("csrc/jit/naive.cu") == "int naive = 1;\nint more;\n"
    assert "notebooks/05_index.md" in session.overlays["csrc/jit/naive.cu"]


@pytest.mark.parametrize("ids", [True, False])
def test_without_a_repository_the_cells_count_in_order_of_their_first_run(lone_session, ids):
    session = lone_session
    session.run(FILE, "int start;", "a" if ids else None)
    session.run(f"-a {FILE}", "float first(float x);", "b" if ids else None)
    session.run(f"-a {FILE}", "struct Second { long member; };", "c" if ids else None)
    session.run(f"-a {FILE}", "float first(float y);", "b" if ids else None)
    assert session.text() == "int start;\nfloat first(float y);\nstruct Second { long member; };\n"


def test_loading_twice_keeps_the_edits(session):
    session.run(f"-a {FILE}", ROWS.replace("n;", "n + 1;"), "05_index-04")
    session.shell.run_line_magic("reload_ext", "minisgl.book")
    session.run(f"-a {FILE}", LAST, "05_index-05")
    assert "return n + 1;" in session.text()


def test_bad_arguments_are_a_usage_error(session, capsys):
    result = session.shell.run_cell("%%c++ --check\nint x;")
    assert type(result.error_in_exec).__name__ == "UsageError"
    assert "UsageError: expected `%%c++ [-a] PATH`" in capsys.readouterr().err
    assert session.overlays == {}


def test_a_compile_error_shows_the_compilers_message_alone(book, session, capsys):
    session.run(f"-a {FILE}", "int rows", "05_index-04")
    (file,) = re.findall(r'"(.*/cell-\d+/notebooks/05_index.md)"', session.overlays[FILE])
    message = f"\x1b[01m{file}:31:3:\x1b[m error: expected\n{book.root}/csrc/a.h:2: note\n"
    session.shell.user_ns["error"] = CompileError(message)
    result = session.shell.run_cell("raise error")
    shown = capsys.readouterr()
    assert shown.err == "\x1b[01mnotebooks/05_index.md:31:3:\x1b[m error: expected\ncsrc/a.h:2: note\n"
    assert shown.out == ""
    assert isinstance(result.error_in_exec, CompileError)


def test_figures_are_the_same_bytes_twice(session):
    pytest.importorskip("matplotlib")
    import matplotlib

    assert matplotlib.rcParams["svg.hashsalt"] == "minisgl"
    assert matplotlib.rcParams["figure.figsize"] == [8.0, 3.2]
    session.shell.run_cell("from matplotlib.figure import Figure\nf = Figure()\nf.subplots().plot([1, 2])")
    figure, format_svg = session.shell.user_ns["f"], session.shell.display_formatter.formatters["image/svg+xml"]
    first = format_svg(figure)
    assert first.startswith("<?xml") or "<svg" in first
    assert first == format_svg(figure)
    assert "<dc:date>" not in first


def test_scratch_does_not_replace_a_file_of_the_package(session, capsys):
    session.shell.run_cell("%%c++ --scratch index.cu\nint x;\n")
    assert "expected a name that no file of the package has, got csrc/jit/index.cu" in capsys.readouterr().err
    assert "csrc/jit/index.cu" not in session.overlays


def test_a_stray_notebook_is_in_nobodys_way(book, session):
    book.write("notebooks/Untitled.ipynb", "{}")
    session.run("--scratch mine.cu", "int x;")
    assert "int x;" in session.text("csrc/jit/mine.cu")


def test_a_cell_that_cannot_be_kept_spoils_no_other(session, capsys):
    session.shell.run_cell(f"%%c++ --scratch {'n' * 300}.cu\nint x;\n")
    assert "the cell could not be kept" in capsys.readouterr().err
    session.run("--scratch mine.cu", "int x;")


def test_jupytext_is_configured_where_jupyterlab_is_started():
    root = Path(__file__).parents[2]
    assert "--notebook-dir=notebooks" in (root / "Makefile").read_text()
    assert 'formats = "ipynb,md"' in (root / "notebooks" / "jupytext.toml").read_text()
