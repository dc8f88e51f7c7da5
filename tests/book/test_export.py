"""What `minisgl book export` writes, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minisgl.book.chapter import parse, read_markdown, read_notebook
from minisgl.book.check import check
from minisgl.book.errors import BookError
from minisgl.book.export import export, parse_exported

SCRIPTS = Path(sys.executable).parent


def test_exported_files_hold_the_formatted_cells_in_order(book):
    text = book.read("csrc/jit/index.cu")
    first, rest = text.split("\n", 1)
    assert first.startswith('// Exported from notebooks/05_index.md by "minisgl book export"; edit it there. sha256:')
    assert len(first) <= 120
    assert rest == (
        "\n#include <cstdint>\n\nnamespace minisgl {\n\nint rows(int n) { return n; }\n\n"
        "int last() { return 1; }\n}  // namespace minisgl\n"
    )
    python = book.read("minisgl/kernel/index.py")
    assert python.split("\n", 1)[1] == '\n"""Gather rows."""\n\n\ndef index(x):\n    return x\n'
    for exported in (parse_exported(text), parse_exported(python)):
        assert exported is not None
        assert exported.intact


def test_scratch_cells_are_formatted_and_not_exported(book):
    assert "int naive;" in book.read("notebooks/05_index.md")
    assert not (book.root / "csrc/jit/naive.cu").exists()


def test_formatted_text_goes_back_into_both_halves(book):
    for half in ("notebooks/05_index.md", "notebooks/05_index.ipynb"):
        assert "int rows(int n) { return n; }" in book.read(half)
        assert "def index(x):" in book.read(half)


def test_export_is_idempotent_and_leaves_unchanged_files_alone(book):
    before = book.snapshot()
    assert export(book.root, []) == []
    assert book.snapshot() == before


def test_formatters_have_nothing_to_do_after_export(book):
    ruff = [f"{SCRIPTS}/ruff", "format", "--check", "minisgl", "notebooks/05_index.ipynb"]
    assert subprocess.run(ruff, cwd=book.root, check=False).returncode == 0
    clang = [f"{SCRIPTS}/clang-format", "--dry-run", "-Werror", "csrc/jit/index.cu"]
    assert subprocess.run(clang, cwd=book.root, check=False).returncode == 0


@pytest.mark.parametrize(
    "cells",
    [
        ["#include <b.h>\n#include <a.h>", "#include <c.h>\n#include <B.h>", "int x;"],
        ["struct A {\n  int x;  // one", "  int yyyyyyyyy;  // two", "};"],
        ["namespace a { namespace b {", "int f(int x) {", "return x; }", "}}"],
        ["#ifdef __CUDA_ARCH__\nint x;", "#else\nint y;", "#endif"],
        ["template <typename T>", "void f(T x) {}"],
    ],
)
def test_cpp_that_spans_cells_is_stable(raw_book, cells):
    fences = [f'```c++ magic_args="{"-a " if i else ""}csrc/jit/a.cu"\n{text}\n```\n' for i, text in enumerate(cells)]
    raw_book.chapter("07_a", "# A\n\n" + "\n".join(fences))
    export(raw_book.root, [])
    assert export(raw_book.root, []) == []
    clang = [f"{SCRIPTS}/clang-format", "--dry-run", "-Werror", "csrc/jit/a.cu"]
    assert subprocess.run(clang, cwd=raw_book.root, check=False).returncode == 0
    assert check(raw_book.root)[0] == []


@pytest.mark.parametrize(
    "cells",
    [
        ['"""Doc."""', "import os", "X = 1"],
        ["class A: pass", "# a comment\nx = 1;", "'''text'''"],
        ["from __future__ import annotations", "if True:\n    pass"],
    ],
)
def test_python_cells_are_stable_at_the_seams(raw_book, cells):
    fences = [f"```python\n#| export minisgl/a.py\n{text}\n```\n" for text in cells]
    raw_book.chapter("07_a", "# A\n\n" + "\n".join(fences))
    export(raw_book.root, [])
    assert export(raw_book.root, []) == []
    ruff = [f"{SCRIPTS}/ruff", "format", "--check", "minisgl/a.py"]
    assert subprocess.run(ruff, cwd=raw_book.root, check=False).returncode == 0
    assert check(raw_book.root)[0] == []


def test_round_trip_keeps_every_byte(book):
    markdown = book.read("notebooks/05_index.md")
    notebook = book.read("notebooks/05_index.ipynb")
    assert read_notebook(book.root, "05_index").normal_markdown() == markdown
    assert read_markdown(book.root, "05_index").normal_notebook() == notebook
    (book.root / "notebooks/05_index.ipynb").unlink()
    assert export(book.root, []) == ["wrote notebooks/05_index.ipynb"]
    assert book.read("notebooks/05_index.ipynb") == notebook


def test_the_pair_is_what_jupytext_writes(book):
    jupytext = [f"{SCRIPTS}/jupytext", "--to", "md", "--output", "-", "notebooks/05_index.ipynb"]
    done = subprocess.run(jupytext, cwd=book.root, capture_output=True, text=True, check=True)
    assert done.stdout == book.read("notebooks/05_index.md")


def test_empty_lines_at_the_end_of_the_markdown_are_dropped(book):
    tidy = book.read("notebooks/05_index.md")
    (book.root / "notebooks/05_index.md").write_text(tidy + "\n\n\n")
    export(book.root, [])
    assert book.read("notebooks/05_index.md") == tidy
    assert check(book.root)[0] == []


def test_notebooks_have_ids_by_position_and_no_outputs(book):
    cells = json.loads(book.read("notebooks/05_index.ipynb"))["cells"]
    assert [cell["id"] for cell in cells] == [f"05_index-{i:02d}" for i in range(len(cells))]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_tags_survive_the_round_trip(raw_book):
    raw_book.replace("notebooks/06_store.md", "```python\n", '```python tags=["folded"]\n')
    export(raw_book.root, [])
    assert read_notebook(raw_book.root, "06_store").cells[1].tags == ("folded",)
    assert '```python tags=["folded"]' in raw_book.read("notebooks/06_store.md")


def test_cell_lines_point_into_the_markdown(book):
    chapter = read_markdown(book.root, "05_index")
    lines = chapter.text.split("\n")
    first = {"c++": 1, "python": 0}
    for cell in chapter.cells:
        skip = first[cell.directive.language] if cell.directive else 0
        assert lines[cell.line - 1] == cell.source.split("\n")[skip], cell


def test_equal_cells_get_lines_of_their_own(tmp_path):
    header = "---\njupyter:\n  kernelspec:\n    display_name: Python 3\n    language: python\n    name: python3\n---\n"
    text = header + "x\n\n```python\nx\n```\n\nx\n\n```python\nx\n```\n\n```python\n\n```\n\n```python\nx\n```\n"
    assert [cell.line for cell in parse(tmp_path, "05_a", text).cells] == [8, 11, 14, 17, 21, 25]


def edit_notebook_text(book, old, new):
    text = book.read("notebooks/05_index.ipynb")
    assert old in text
    book.write("notebooks/05_index.ipynb", text.replace(old, new))


def test_the_half_that_was_edited_counts(book):
    book.replace("notebooks/05_index.md", "The kernel.", "The fast kernel.")
    assert export(book.root, []) == ["wrote notebooks/05_index.ipynb"]
    assert "The fast kernel." in book.read("notebooks/05_index.ipynb")
    edit_notebook_text(book, "The fast kernel.", "The faster kernel.")
    assert export(book.root, []) == ["wrote notebooks/05_index.md"]
    assert "The faster kernel." in book.read("notebooks/05_index.md")


def test_a_fresh_clone_compares_with_its_commit(book):
    git = ["git", "-C", str(book.root), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "notebooks"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    (book.root / "build/book/agreed.json").unlink()
    edit_notebook_text(book, "The kernel.", "The fast kernel.")
    assert export(book.root, []) == ["wrote notebooks/05_index.md"]


def test_two_edited_halves_are_refused_and_sides_can_be_chosen(book):
    book.replace("notebooks/05_index.md", "The kernel.", "The fast kernel.")
    edit_notebook_text(book, "The kernel.", "The slow kernel.")
    before = book.snapshot()
    with pytest.raises(BookError, match=r"both were edited: cell 05_index-03 .*md:\d+\) differs.*--from md"):
        export(book.root, [])
    assert book.snapshot() == before
    export(book.root, ["05"], side="ipynb")
    assert "The slow kernel." in book.read("notebooks/05_index.md")
    edit_notebook_text(book, "The slow kernel.", "The kernel.")
    book.replace("notebooks/05_index.md", "The slow kernel.", "The fast kernel.")
    assert export(book.root, ["05_index.md"], side="md") == ["wrote notebooks/05_index.ipynb"]
    assert "The fast kernel." in book.read("notebooks/05_index.ipynb")


def test_outputs_are_dropped_from_the_winning_notebook(book):
    notebook = json.loads(book.read("notebooks/06_store.ipynb"))
    notebook["cells"][1]["execution_count"] = 7
    notebook["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["hello"]}]
    before = book.read("notebooks/06_store.ipynb")
    book.write("notebooks/06_store.ipynb", json.dumps(notebook))
    export(book.root, [])
    assert book.read("notebooks/06_store.ipynb") == before


def test_attachments_are_refused(book):
    notebook = json.loads(book.read("notebooks/06_store.ipynb"))
    notebook["cells"][0]["attachments"] = {"a.png": {"image/png": "AAAA"}}
    book.write("notebooks/06_store.ipynb", json.dumps(notebook))
    with pytest.raises(BookError, match="cell 0: expected no attachments"):
        export(book.root, ["06"], side="ipynb")


def test_hand_edit_is_refused_unless_forced(book):
    exported = book.read("csrc/jit/index.cu")
    book.replace("csrc/jit/index.cu", "return n;", "return n + 1;")
    before = book.snapshot()
    with pytest.raises(BookError, match=r"csrc/jit/index.cu: edited by hand.*minisgl book update.*--force"):
        export(book.root, [])
    assert book.snapshot() == before
    assert export(book.root, [], force=True) == ["wrote csrc/jit/index.cu"]
    assert book.read("csrc/jit/index.cu") == exported


def test_a_file_without_header_is_not_overwritten(raw_book):
    raw_book.write("minisgl/kernel/store.py", "mine = 1\n")
    with pytest.raises(BookError, match=r"minisgl/kernel/store.py: .*without the export header"):
        export(raw_book.root, [])
    assert not (raw_book.root / "csrc").exists()
    assert raw_book.read("minisgl/kernel/store.py") == "mine = 1\n"


def test_a_file_no_longer_claimed_is_removed(book):
    book.replace("notebooks/06_store.md", "#| export minisgl/kernel/store.py", "#| export minisgl/kernel/stores.py")
    lines = export(book.root, ["06"], side="md")
    assert "removed minisgl/kernel/store.py" in lines
    assert "wrote minisgl/kernel/stores.py" in lines
    assert not (book.root / "minisgl/kernel/store.py").exists()


def test_a_hand_edited_file_no_longer_claimed_is_kept(book):
    book.replace("notebooks/06_store.md", "#| export minisgl/kernel/store.py", "#| export minisgl/kernel/stores.py")
    book.replace("minisgl/kernel/store.py", "return x", "return x + 1")
    before = book.snapshot()
    with pytest.raises(BookError, match="no chapter exports it any more, and it was edited by hand"):
        export(book.root, ["06"], side="md")
    assert book.snapshot() == before


def test_a_renamed_chapter_takes_its_files_along(book):
    for suffix in (".md", ".ipynb"):
        (book.root / f"notebooks/06_store{suffix}").rename(book.root / f"notebooks/07_store{suffix}")
    export(book.root, [])
    assert "Exported from notebooks/07_store.md" in book.read("minisgl/kernel/store.py")
    assert check(book.root)[0] == []


def test_two_chapters_claiming_one_file_are_refused(raw_book):
    raw_book.replace("notebooks/06_store.md", "kernel/store.py", "kernel/index.py")
    with pytest.raises(BookError, match=r"index\.py: expected one chapter to export it, got 05_index and 06_store"):
        export(raw_book.root, ["06"])


def test_a_syntax_error_names_the_cell(raw_book):
    raw_book.replace("notebooks/05_index.md", "def index( x ):", "def index( x :")
    with pytest.raises(BookError, match=r"cell 05_index-08 \(notebooks/05_index.md:\d+\): expected Python"):
        export(raw_book.root, [])
    assert not (raw_book.root / "csrc").exists()


def test_an_unknown_chapter_is_refused(book):
    with pytest.raises(BookError, match=r"expected a chapter \(05_index, 06_store\), got 09"):
        export(book.root, ["09"])


def test_a_renamed_chapter_does_not_lose_its_files(book):
    for suffix in (".md", ".ipynb"):
        (book.root / f"notebooks/05_index{suffix}").rename(book.root / f"notebooks/05 index{suffix}")
    with pytest.raises(BookError, match=r"notebooks/05 index.md: expected a name such as 05_index.md"):
        export(book.root, [])
    assert (book.root / "csrc/jit/index.cu").is_file()


def test_a_kernelspec_that_a_frontend_renamed_is_put_back(book):
    before = book.read("notebooks/05_index.md")
    book.replace("notebooks/05_index.md", "Python 3 (ipykernel)", "Python 3.13")
    export(book.root, [], side="md")
    assert book.read("notebooks/05_index.md") == before


def test_an_interrupted_export_has_written_the_chapter_first(book, monkeypatch):
    book.replace("notebooks/05_index.md", "return n;", "return n + 1;")
    written = []

    def write_one(path, text):
        written.append(path.name)
        raise KeyboardInterrupt

    monkeypatch.setattr("minisgl.book.export.write_text", write_one)
    with pytest.raises(KeyboardInterrupt):
        export(book.root, [], side="md")
    assert written == ["05_index.ipynb"]
