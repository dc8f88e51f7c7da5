"""Edits in exported files come back into the cells that they belong to."""

import pytest

from minisgl.book.chapter import read_markdown
from minisgl.book.check import check
from minisgl.book.directives import body
from minisgl.book.errors import BookError
from minisgl.book.export import export
from minisgl.book.update import update

FILE = "csrc/jit/index.cu"


def cells(book, path=FILE):
    chapter = read_markdown(book.root, "05_index")
    return [body(cell.source) for cell in chapter.cells if cell.directive and cell.directive.path == path]


def carried(book):
    lines = update(book.root, [])
    assert check(book.root)[0] == []
    return lines


def test_edit_of_a_middle_cell(book):
    first, _, last = cells(book)
    book.replace(FILE, "int rows(int n) { return n; }", "int rows(int n) { return n + 1; }\n\nint more;")
    lines = carried(book)
    assert cells(book) == [first, "int rows(int n) { return n + 1; }\n\nint more;", last]
    assert set(lines) == {f"wrote {path}" for path in (FILE, "notebooks/05_index.md", "notebooks/05_index.ipynb")}


def test_edit_is_formatted(book):
    book.replace(FILE, "int rows(int n) { return n; }", "int rows( int n ) { return n+1; }")
    carried(book)
    assert cells(book)[1] == "int rows(int n) { return n + 1; }"


def test_lines_next_to_a_boundary_stay_with_their_neighbour(book):
    book.replace(FILE, "{ return n; }\n", "{ return n; }\nint below;\n")
    carried(book)
    assert cells(book)[1] == "int rows(int n) { return n; }\nint below;"
    book.replace(FILE, "int last()", "int above;\nint last()")
    carried(book)
    assert cells(book)[2].startswith("int above;\nint last()")


def test_edit_across_a_boundary(book):
    book.replace(FILE, "return n; }\n\nint last() { return 1; }", "return n + 1; }\n\nint last() { return 2; }")
    carried(book)
    assert cells(book)[1] == "int rows(int n) { return n + 1; }"
    assert cells(book)[2].startswith("int last() { return 2; }")


def test_lines_added_at_the_end(book):
    book.write(FILE, book.read(FILE) + "\nint end;\n")
    carried(book)
    assert cells(book)[2].endswith("}  // namespace minisgl\n\nint end;")


def test_lines_added_at_the_start(book):
    book.replace(FILE, "#include <cstdint>", "#include <array>\n#include <cstdint>")
    carried(book)
    assert cells(book)[0].startswith("#include <array>\n#include <cstdint>")


def test_a_cell_deleted_as_a_whole(book):
    book.replace(FILE, "int rows(int n) { return n; }\n\n", "")
    carried(book)
    assert cells(book)[1] == ""
    assert len(cells(book)) == 3


def test_python_edit_at_the_docstring_seam(book):
    book.replace("minisgl/kernel/index.py", '"""Gather rows."""\n', '"""Gather some rows."""\n\nimport os\n')
    carried(book)
    assert "import os" in "\n".join(cells(book, "minisgl/kernel/index.py"))
    assert '"""Gather some rows."""' in cells(book, "minisgl/kernel/index.py")[0]


def test_two_files_of_one_chapter_at_once(book):
    book.replace(FILE, "return n;", "return n + 1;")
    book.replace("minisgl/kernel/index.py", "return x", "return x + 1")
    carried(book)
    assert "return n + 1;" in cells(book)[1]
    assert "return x + 1" in cells(book, "minisgl/kernel/index.py")[1]


def test_named_file(book, monkeypatch):
    book.replace(FILE, "return n;", "return n + 1;")
    monkeypatch.chdir(book.root / "csrc")
    update(book.root, ["jit/index.cu"])
    assert "return n + 1;" in cells(book)[1]


def test_nothing_to_carry(book):
    assert update(book.root, []) == []


def refused(book, message, files=()):
    before = book.snapshot()
    with pytest.raises(BookError, match=message):
        update(book.root, list(files))
    assert book.snapshot() == before


def test_both_changed(book):
    book.replace(FILE, "return n;", "return n + 1;")
    book.replace("notebooks/05_index.md", "return 1;", "return 2;")
    (book.root / "notebooks/05_index.ipynb").unlink()
    refused(book, r"csrc/jit/index.cu: both changed: .*--force")


def test_disagreeing_pair(book):
    book.replace(FILE, "return n;", "return n + 1;")
    book.replace("notebooks/05_index.md", "The kernel.", "A kernel.")
    book.replace("notebooks/05_index.ipynb", "The kernel.", "One kernel.")
    refused(book, "the .md and the .ipynb disagree, and both were edited")


def test_missing_header(book):
    book.write(FILE, "int x;\n")
    refused(book, "expected the export header", [FILE])


def test_unknown_file(book):
    refused(book, "expected an exported file below", ["csrc/jit/none.cu"])


def test_python_that_does_not_parse(book):
    book.replace("minisgl/kernel/index.py", "return x", "return (x")
    refused(book, r"Failed to parse minisgl/kernel/index.py:8:")


def test_text_that_would_become_a_directive(book):
    # In a Python cell this line would be taken for a directive, so the chapter cannot export it.
    book.replace("minisgl/kernel/index.py", "    return x", "    return x\n\n\n#| export minisgl/other.py")
    refused(book, "first line of the cell|cannot be carried back")


def test_update_then_export_changes_nothing(book):
    book.replace(FILE, "return n;", "return n + 1;")
    update(book.root, [])
    assert export(book.root, []) == []
