"""Chapters run in a real kernel, and become pages."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import minisgl
from minisgl.book.chapter import parse, read_markdown
from minisgl.book.errors import BookError
from minisgl.book.execute import build, execute

PACKAGE = Path(minisgl.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def kernels_find_the_package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))


@pytest.fixture
def empty_book(raw_book):
    """A book without chapters."""
    for file in (raw_book.root / "notebooks").iterdir():
        file.unlink()
    return raw_book


def test_build_writes_notebooks_pages_and_an_index(empty_book):
    book = empty_book
    load = "```python\n%load_ext minisgl.book\n```\n\n"
    plot = "```python\nimport matplotlib.pyplot as plt\n\nplt.plot([1, 2]);\n```\n"
    book.chapter("01_plot", f"# Plot\n\nA line.\n\n{load}```python\nprint(6 * 7)\n```\n")
    book.chapter("02_figure", f"# Figure\n\nSee [the plot](01_plot.md).\n\n{load}{plot}")
    lines: list[str] = []
    build(book.root, [], progress=lines.append)
    assert sorted(re.sub(r"\d+\.\d s", "TIME", line) for line in lines) == ["01_plot  TIME", "02_figure  TIME"]
    assert "```{ .text .output }\n42\n```" in book.read("docs/chapters/01_plot.md")
    assert "![Output of the cell above](02_figure/02-0.svg)" in book.read("docs/chapters/02_figure.md")
    svg = book.read("docs/chapters/02_figure/02-0.svg")
    assert "<svg" in svg
    assert "#808080" in svg
    assert "<dc:date>" not in svg
    assert "[2. Figure](02_figure.md)" in book.read("docs/chapters/index.md")
    assert json.loads(book.read("build/book/01_plot.ipynb"))["cells"][2]["outputs"][0]["text"] == ["42\n"]
    build(book.root, ["02"], progress=lines.append)
    assert book.read("docs/chapters/02_figure/02-0.svg") == svg


def test_a_failing_chapter_names_cell_line_and_error(empty_book):
    book = empty_book
    book.chapter("01_bad", "# Bad\n\n```python\nx = 1\n```\n\n```python\nraise ValueError('too small')\n```\n")
    book.chapter("02_good", "# Good\n\n```python\nprint(1)\n```\n")
    with pytest.raises(BookError) as error:
        build(book.root, [], progress=lambda line: None)
    assert str(error.value).startswith("cell 01_bad-02 (notebooks/01_bad.md:16) failed:\n")
    assert "ValueError: too small" in str(error.value)
    assert "\x1b" not in str(error.value)
    assert not (book.root / "docs/chapters/01_bad.md").exists()
    assert (book.root / "docs/chapters/02_good.md").exists()


def test_bad_arguments_fail_the_cell(empty_book):
    text = '# Bad\n\n```python\n%load_ext minisgl.book\n```\n\n```c++ magic_args="--nonsense"\nint x;\n```\n'
    empty_book.chapter("01_bad", text)
    with pytest.raises(BookError, match="expected `%%c"):
        execute(read_markdown(empty_book.root, "01_bad"))


TYPO = """\
# Typo

```python
%load_ext minisgl.book
```

```c++ magic_args="--scratch typo.cu"
int good;
int bad;
```

```c++ magic_args="-a --scratch typo.cu"
int more;
```

```python
from pathlib import Path

from minisgl.compile import build, host_target

build("typo", '#include "jit/typo.cu"', [Path("jit/typo.cu")], host_target())
```
"""


@pytest.mark.parametrize("saved", [True, False])
def test_a_typo_fails_the_cell_with_the_compilers_message_alone(empty_book, monkeypatch, saved):
    book = empty_book
    # The kernel's `minisgl` takes this book for its repository.
    book.write(
        "hook/sitecustomize.py",
        "from pathlib import Path\n\nimport minisgl.compile.sources as sources\n\n"
        f"sources.repository_root = lambda: Path({str(book.root)!r})\n",
    )
    monkeypatch.setenv("PYTHONPATH", f"{book.root / 'hook'}:{PACKAGE}")
    monkeypatch.setenv("MINISGL_CACHE_DIR", str(book.root / "cache"))
    edited = TYPO.replace("int bad;", "int bad = nothing;")
    book.chapter("01_typo", edited if saved else TYPO)
    chapter = parse(book.root, "01_typo", book.header + edited)
    line = chapter.text.split("\n").index("int bad = nothing;") + 1
    with pytest.raises(BookError) as caught:
        execute(chapter)
    last = chapter.place(chapter.cells[-1])
    first, second, *rest = str(caught.value).split("\n")
    assert first == f"{last} failed:"
    shown = "\n".join([second, *rest])
    assert f"notebooks/01_typo.md:{line}:11: error: " in shown
    assert f"{line} | int bad = nothing;" in shown
    assert str(book.root) not in shown
    assert "cell-" not in shown
    assert "Traceback" not in shown
    error = caught.value.__cause__
    assert isinstance(error, CellExecutionError)
    assert (error.ename, error.evalue) == ("CompileError", shown)


def test_pages_build_strictly(empty_book):
    book = empty_book
    text = "# One\n\nSee [two](02_two.md) and [code](../csrc/jit/a.cu).\n\n```python\nprint(1)\n```\n"
    book.chapter("01_one", text)
    book.chapter("02_two", '# Two\n\n```python tags=["folded"]\nprint(2)\n```\n')
    build(book.root, [], progress=lambda line: None)
    book.write("docs/index.md", "# Home\n\n[Chapters](chapters/index.md)\n")
    book.write(
        "mkdocs.yml",
        "site_name: Test\nmarkdown_extensions:\n  - pymdownx.superfences: {relaxed_headers: true}\n"
        "  - pymdownx.details\n  - admonition\n",
    )
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(command, cwd=book.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "<details" in book.read("site/chapters/02_two/index.html")


def test_the_kernel_hands_on_the_frontends_cell_id(tmp_path):
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        code = "from minisgl.book.magic import _frontend_id\nprint(_frontend_id(get_ipython()))"
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        client.shell_channel.send(client.session.msg("execute_request", content, metadata={"cellId": "05_index-07"}))
        while (message := client.get_iopub_msg(timeout=60))["msg_type"] not in ("stream", "error"):
            pass
        assert message["content"] == {"name": "stdout", "text": "05_index-07\n"}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_an_edit_of_the_kernel_cell_shows_in_the_next_cell():
    """What a reader does in chapter 5: edit a line of the kernel, run that cell and the next, then undo it."""
    chapter = read_markdown(PACKAGE, "05_index")
    kernel = next(cell.source for cell in chapter.cells if "if (row < vocab_length) {" in cell.source)
    edited = kernel.replace("if (row < vocab_length) {", "if (row < vocab_length && row != 2) {")
    look_up = "print(indexing(torch.eye(4), torch.tensor([1, 2])).sum(1).tolist())"
    sources = ["%load_ext minisgl.book\nimport torch\nfrom minisgl.kernel import indexing", look_up]
    sources += [edited, look_up, edited, look_up, kernel, look_up]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    before = (PACKAGE / "csrc/jit/index.cu").read_bytes()
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    shown = [cell.outputs[0].text for cell in notebook.cells if cell.source == look_up]
    assert shown == ["[1.0, 1.0]\n", "[1.0, 0.0]\n", "[1.0, 0.0]\n", "[1.0, 1.0]\n"]
    assert (PACKAGE / "csrc/jit/index.cu").read_bytes() == before
