"""Each kind of drift is found, named, and comes with what to do."""

import json

import pytest

from minisgl.book.check import check
from minisgl.book.directives import Directive, parse_directive
from minisgl.book.errors import BookError
from minisgl.book.export import export


def findings(book):
    return check(book.root)[0]


def edit_notebook(book, change):
    notebook = json.loads(book.read("notebooks/06_store.ipynb"))
    change(notebook["cells"])
    book.write("notebooks/06_store.ipynb", json.dumps(notebook, indent=1) + "\n")


def edit_pair(book, name, old, new):
    """Edit a chapter and make its notebook agree, without exporting."""
    from minisgl.book.chapter import read_markdown

    book.replace(f"notebooks/{name}.md", old, new)
    book.write(f"notebooks/{name}.ipynb", read_markdown(book.root, name).normal_notebook())


def test_a_book_in_step_has_no_findings(book):
    assert check(book.root) == ([], "2 chapters, 3 exported files: in step")


def test_stale_file(book):
    edit_pair(book, "05_index", "return 1;", "return 2;")
    (line,) = findings(book)
    assert line.startswith("csrc/jit/index.cu: behind its chapter, cell 05_index-05 (notebooks/05_index.md:")
    assert line.endswith('run "minisgl book export 05_index"')


def test_missing_file(book):
    (book.root / "minisgl/kernel/store.py").unlink()
    (line,) = findings(book)
    assert line.startswith("minisgl/kernel/store.py: missing, though cell 06_store-01 (notebooks/06_store.md:")


def test_hand_edit(book):
    book.replace("csrc/jit/index.cu", "return n;", "return n + 1;")
    (line,) = findings(book)
    assert line.startswith("csrc/jit/index.cu: edited by hand, near cell 05_index-04 (notebooks/05_index.md:")
    assert line.endswith('run "minisgl book update csrc/jit/index.cu"')


def test_file_without_header(book):
    book.write("minisgl/kernel/store.py", "x = 1\n")
    (line,) = findings(book)
    assert "minisgl/kernel/store.py: expected the export header" in line


def test_header_naming_another_chapter(book):
    book.replace("minisgl/kernel/store.py", "06_store.md", "05_index.md")
    (line,) = findings(book)
    assert "its header names notebooks/05_index.md, expected notebooks/06_store.md" in line


def test_disagreeing_pair(book):
    book.replace("notebooks/06_store.md", "See ", "Do see ")
    (line,) = findings(book)
    assert line.startswith("notebooks/06_store.ipynb: cell 06_store-00 (notebooks/06_store.md:")
    assert line.endswith('run "minisgl book export 06_store"')


def test_cell_in_one_half_only(book):
    book.write("notebooks/06_store.md", book.read("notebooks/06_store.md") + "\nMore.\n")
    (line,) = findings(book)
    assert "cell 06_store-02" in line
    assert "is only in the .md" in line


def test_outputs(book):
    stream = {"output_type": "stream", "name": "stdout", "text": ["x"]}
    edit_notebook(book, lambda cells: cells[1].update(outputs=[stream]))
    (line,) = findings(book)
    assert line.startswith("notebooks/06_store.ipynb: outputs or execution counts in 1 cells (1), expected none: run")


def test_execution_count(book):
    edit_notebook(book, lambda cells: cells[1].update(execution_count=3))
    (line,) = findings(book)
    assert line.startswith("notebooks/06_store.ipynb: outputs or execution counts in 1 cells (1), expected none: run")


def test_cell_ids(book):
    edit_notebook(book, lambda cells: cells[1].update(id="abc"))
    (line,) = findings(book)
    assert "cell 1: expected id 06_store-01, got abc" in line


def test_other_metadata(book):
    edit_notebook(book, lambda cells: cells[1]["metadata"].update(scrolled=True))
    (line,) = findings(book)
    assert line.startswith("notebooks/06_store.ipynb: other metadata or layout")


@pytest.mark.parametrize("suffix", [".md", ".ipynb"])
def test_missing_half(book, suffix):
    (book.root / f"notebooks/06_store{suffix}").unlink()
    (line,) = findings(book)
    assert line.startswith(f"notebooks/06_store{suffix}: missing, only its ")
    export(book.root, ["06"])
    assert findings(book) == []


def test_orphan(book):
    book.write("csrc/include/minisgl/extra.h", "int x;\n")
    book.write("minisgl/book/hand_written.py", "x = 1\n")
    book.write("minisgl/__pycache__/x.cpython-311.pyc", "")
    book.write("minisgl/py.typed", "")
    (line,) = findings(book)
    assert line == "csrc/include/minisgl/extra.h: no chapter exports it: export it from a chapter, or delete it"


def test_left_over_export(book):
    edit_pair(book, "06_store", "kernel/store.py", "kernel/stores.py")
    lines = findings(book)
    assert any(line.startswith("minisgl/kernel/stores.py: missing") for line in lines)
    assert any(line.startswith("minisgl/kernel/store.py: notebooks/06_store.md no longer exports it") for line in lines)


def test_two_chapters_claiming_one_file(book):
    edit_pair(book, "06_store", "kernel/store.py", "kernel/index.py")
    assert any(
        "minisgl/kernel/index.py: exported by two chapters, notebooks/05_index.md and notebooks/06_store.md" in line
        for line in findings(book)
    )


def test_unformatted_cell(book):
    edit_pair(book, "05_index", "int last() { return 1; }", "int last( ) { return 1; }")
    (line,) = findings(book)
    assert line.startswith("notebooks/05_index.md: cell 05_index-05 (notebooks/05_index.md:")
    assert "not formatted" in line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("#| export minisgl/kernel/store.py", "#| export", "expected `#| export PATH`, got '#| export'"),
        ("#| export minisgl/kernel/store.py", "#| exprot minisgl/a.py", "expected `#| export PATH`"),
        ("#| export minisgl/kernel/store.py", "#| export ../x.py", "expected a path below minisgl/, got ../x.py"),
    ],
)
def test_bad_directive_in_a_chapter(book, old, new, message):
    edit_pair(book, "06_store", old, new)
    (line, orphan) = findings(book)
    assert line.startswith("notebooks/06_store.md: cell 06_store-01") or line.startswith("cell 06_store-01")
    assert message in line
    assert orphan.startswith("minisgl/kernel/store.py: ")


def test_continued_before_its_start(book):
    edit_pair(book, "05_index", 'magic_args="csrc/jit/index.cu"', 'magic_args="-a csrc/jit/index.cu"')
    line = findings(book)[0]
    assert "cell 05_index-02" in line
    assert "continued with -a before any cell starts it" in line


def test_started_twice(book):
    text = '```c++ magic_args="-a csrc/jit/index.cu"\nint rows'
    edit_pair(book, "05_index", text, text.replace("-a ", ""))
    line = findings(book)[0]
    assert "cell 05_index-04" in line
    assert "started twice, first in cell 05_index-02" in line


def test_a_broken_notebook(book):
    book.write("notebooks/06_store.ipynb", "{")
    assert any(line.startswith("notebooks/06_store.ipynb: expected a notebook") for line in findings(book))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("#| export /etc/x.py", "below minisgl/"),
        ("#| export minisgl/../x.py", "below minisgl/"),
        ("#| export csrc/x.py", "below minisgl/"),
        ("#| export minisgl/book/x.py", "hand-written"),
        ("#| export minisgl/cli.py", "hand-written"),
        ("#| export minisgl/x.txt", "ending in .py"),
        ("x = 1\n#| export minisgl/x.py", "first line of the cell"),
        ("%%c++", "got nothing"),
        ("%%c++ --check csrc/a.cu", "got --check csrc/a.cu"),
        ("%%c++ a.cu", "below csrc/"),
        ("%%c++ csrc/../a.cu", "below csrc/"),
        ("%%c++ csrc/a.py", "ending in .cu"),
        ("%%c++ --scratch jit/a.cu", "without a folder"),
    ],
)
def test_bad_directives(source, message):
    with pytest.raises(BookError, match=message):
        parse_directive(source + "\ncode")


def test_good_directives():
    scratch = parse_directive("%%c++ --scratch -a naive.cu\nint x;")
    assert scratch is not None
    assert (scratch.path, scratch.append, scratch.scratch) == ("csrc/jit/naive.cu", True, True)
    assert parse_directive("%%c++ csrc/jit/a.cu -a") == Directive("c++", "csrc/jit/a.cu", append=True)
    assert parse_directive("x = 1") is None
    assert parse_directive("%%time\nx = 1") is None


def test_a_name_that_is_no_chapters(book):
    book.write("notebooks/Untitled.md", "# Mine\n")
    (line,) = findings(book)
    assert line.startswith("notebooks/Untitled.md: expected a name such as 05_index.md")


def test_merge_conflict(book):
    text = book.read("notebooks/05_index.md").replace("The kernel.", "<<<<<<< HEAD\nThe kernel.\n>>>>>>> theirs")
    book.write("notebooks/05_index.md", text)
    assert "notebooks/05_index.md: a merge conflict is not resolved: '<<<<<<< HEAD'" in findings(book)
