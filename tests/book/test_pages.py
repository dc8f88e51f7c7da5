"""Executed notebooks become plain Markdown pages."""

import base64
from functools import partial

import nbformat
import pytest

from minisgl.book.chapter import read_markdown
from minisgl.book.pages import _joined, write_index, write_page

PAGE = """\
# Demo

First [words](05_index.md#contract), [other](06_store.ipynb), the [source](../csrc/jit/index.cu),
[docs](../docs/how.md), [site](https://example.org), `[code](../x.py)` and [here](#demo).

```text
[code](../csrc/jit/index.cu)
```

```c++ magic_args="csrc/jit/demo.cu"
int x;
```

```c++ magic_args="--scratch naive.cu"
int y;
```

```python tags=["folded"]
#| export minisgl/demo.py
x = 1
```

```python tags=["hidden"]
secret = 1
```

```python
print(x)
```

```python tags=["folded"]
# Draw "it"
plot()
```

<!-- #region tags=["folded"] -->
### Solution

Text.
<!-- #endregion -->
"""


def output(kind, **fields):
    return nbformat.v4.new_output(kind, **fields)


@pytest.fixture
def page(raw_book):
    """Write the page of a chapter whose cells, by position among the code cells, put out `outputs`."""

    def make(text=PAGE, outputs=None):
        raw_book.chapter("07_demo", text)
        chapter = read_markdown(raw_book.root, "07_demo")
        notebook = nbformat.reads(chapter.normal_notebook(), as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for index, found in (outputs or {}).items():
            code[index].outputs = found
        write_page(chapter, notebook)
        return raw_book.read("docs/chapters/07_demo.md")

    return make


def test_heading_and_exports(page):
    assert page().startswith("# Demo\n\nThis chapter writes `csrc/jit/demo.cu`, `minisgl/demo.py`\n\nFirst ")


def test_a_long_list_of_exports_is_folded(page):
    cells = "".join(f"\n```python\n#| export minisgl/part_{i}.py\nx = {i}\n```\n" for i in range(20))
    text = page(PAGE + cells)
    assert text.startswith('# Demo\n\n??? note "This chapter writes 22 files"\n\n    This chapter writes `csrc/jit/')
    assert "\n\nFirst " in text


def test_code_cells(page):
    text = page()
    assert '```{ .cpp title="csrc/jit/demo.cu" }\nint x;\n```' in text
    assert '```{ .cpp title="scratch: naive.cu" }\nint y;\n```' in text
    assert "```python\nprint(x)\n```" in text
    assert "%%c++" not in text
    assert "#| export" not in text


def test_folded_cells(page):
    text = page()
    assert '??? note "minisgl/demo.py"\n\n    ```{ .python title="minisgl/demo.py" }\n    x = 1\n    ```' in text
    assert "??? note \"Draw 'it'\"\n\n    ```python\n" in text
    assert '??? note "Solution"\n\n    Text.' in text
    assert "### Solution" not in text


def test_hidden_cells_leave_no_trace(page):
    assert "secret" not in page(outputs={3: [output("stream", name="stdout", text="secret\n")]})


def test_links_without_a_repository_url(page):
    text = page()
    assert "[words](05_index.md#contract), [other](06_store.md), the `source`," in text
    assert "[docs](../how.md), [site](https://example.org), `[code](../x.py)` and [here](#demo)" in text
    assert "```text\n[code](../csrc/jit/index.cu)\n```" in text


def test_links_with_a_repository_url(raw_book, page):
    raw_book.write("mkdocs.yml", "site_name: x\nrepo_url: https://example.org/me/book/\nplugins: [!!python/name:x ]\n")
    assert "the [source](https://example.org/me/book/blob/main/csrc/jit/index.cu)," in page()


def test_text_outputs(page):
    stdout = output("stream", name="stdout", text="\x1b[31mred\x1b[0m\n```\n")
    stderr = output("stream", name="stderr", text="warning\n")
    text = page(outputs={4: [stdout, stderr]})
    assert "````{ .text .output }\nred\n```\n````" in text
    assert "warning" not in text


def test_rich_outputs(page):
    html = output("display_data", data={"text/html": "<b>bold</b>", "text/plain": "plain"})
    markdown = output("display_data", data={"text/markdown": "**strong**", "text/plain": "plain"})
    plain = output("execute_result", data={"text/plain": "42"})
    text = page(outputs={4: [html, markdown, plain]})
    assert '<div class="output" markdown="0">\n<b>bold</b>\n</div>\n\n**strong**\n\n```{ .text' in text
    assert "```{ .text .output }\n42\n```" in text
    assert "plain" not in text


def test_errors_are_shown_without_colours(page):
    error = output("error", ename="E", evalue="v", traceback=["\x1b[31mnotebooks/07.md:3: error\x1b[0m"])
    assert "```{ .text .output }\nnotebooks/07.md:3: error\n```" in page(outputs={4: [error]})


def test_pictures_become_files(raw_book, page):
    svg = output("display_data", data={"image/svg+xml": "<svg/>", "text/html": "html", "text/plain": "plain"})
    png = output("display_data", data={"image/png": base64.b64encode(b"png").decode(), "text/plain": "plain"})
    text = page(outputs={4: [svg, png]})
    folder = raw_book.root / "docs/chapters/07_demo"
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["05-0.svg", "05-1.png"]
    assert all(f"](07_demo/{name})" in text for name in names)
    assert (folder / names[0]).read_text() == "<svg/>"
    assert (folder / names[1]).read_bytes() == b"png"
    assert "html" not in text
    assert "plain" not in text
    page()
    assert not folder.exists()


def test_a_picture_in_the_pages_colour_goes_into_the_page(raw_book, page):
    svg = '<svg><text fill="currentColor">a</text></svg>'
    alone = output("display_data", data={"image/svg+xml": svg, "text/plain": "plain"})
    both = output("display_data", data={"image/svg+xml": svg, "text/html": f"<p>{svg}</p>", "text/plain": "plain"})
    text = page(outputs={4: [alone, both]})
    shown = f'<div class="output" markdown="0">\n{svg}\n</div>'
    assert f"{shown}\n\n{shown.replace(svg, f'<p>{svg}</p>')}" in text
    assert not (raw_book.root / "docs/chapters/07_demo").exists()


def test_markdown_leaves_html_alone(page):
    """A slider's script and drawing reach the site as they are."""
    markdown = pytest.importorskip("markdown")
    svg = '<svg><path d="M0 0h*1*"/><g>_a_ &lt; b</g></svg>'
    html = f"<div>\n{svg}\n</div>\n<script>\nif (a < b && c) {{\n  d();\n}}\n</script>"
    text = page(outputs={4: [output("display_data", data={"text/html": html, "text/plain": "plain"})]})
    extensions = ["admonition", "attr_list", "md_in_html", "tables"]
    assert html in markdown.markdown(text, extensions=extensions)


def test_a_picture_of_the_repository_is_copied(raw_book, page):
    raw_book.write("notebooks/figures/a.svg", "<svg/>")
    assert "![A](07_demo/a.svg)" in page("# Demo\n\n![A](figures/a.svg)\n")
    assert raw_book.read("docs/chapters/07_demo/a.svg") == "<svg/>"


def test_index_lists_chapters_that_have_a_page(raw_book, page):
    page()
    raw_book.write("docs/chapters/04_gone.md", "# Gone\n")
    write_index(raw_book.root)
    text = raw_book.read("docs/chapters/index.md")
    assert text.startswith("# Chapters\n\n## [7. Demo](07_demo.md)\n\nFirst [words](05_index.md#contract)")
    assert "Store" not in text
    assert not (raw_book.root / "docs/chapters/04_gone.md").exists()


def test_pieces_of_a_stream_are_one_output():
    stream = partial(nbformat.v4.new_output, "stream")
    pieces = [stream(name="stdout", text="a\n"), stream(name="stdout", text="b\n"), stream(name="stderr", text="c\n")]
    assert [(output.name, output.text) for output in _joined(pieces)] == [("stdout", "a\nb\n"), ("stderr", "c\n")]
