"""A tiny book to work on."""

from pathlib import Path

import pytest

from minisgl.book.export import export

HEADER = """\
---
jupyter:
  kernelspec:
    display_name: Python 3 (ipykernel)
    language: python
    name: python3
---

"""

INDEX = '''\
# Index

Gather rows.

```python
%load_ext minisgl.book
```

```c++ magic_args="csrc/jit/index.cu"
#include <cstdint>

namespace minisgl {
```

The kernel.

```c++ magic_args="-a csrc/jit/index.cu"
int rows( int n ) { return n; }
```

```c++ magic_args="-a csrc/jit/index.cu"
int last() {
  return 1;
}
} // namespace minisgl
```

```c++ magic_args="--scratch naive.cu"
int   naive;
```

```python
#| export minisgl/kernel/index.py
"""Gather rows."""
```

```python
#| export minisgl/kernel/index.py
def index( x ):
    return x
```
'''

STORE = """\
# Store

See [the index](05_index.md).

```python
#| export minisgl/kernel/store.py
def store(x: int) -> int:
    return x
```
"""


class Book:
    """A book in a temporary folder."""

    header = HEADER

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "notebooks").mkdir()
        (root / "pyproject.toml").write_text("[tool.ruff]\nline-length = 120\n")
        (root / ".clang-format").write_text("BasedOnStyle: Google\nColumnLimit: 120\n")
        self.write("notebooks/05_index.md", HEADER + INDEX)
        self.write("notebooks/06_store.md", HEADER + STORE)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def chapter(self, stem: str, text: str) -> None:
        self.write(f"notebooks/{stem}.md", HEADER + text)

    def replace(self, path: str, old: str, new: str) -> None:
        text = self.read(path)
        assert text.count(old) == 1, f"{old!r} in {text}"
        self.write(path, text.replace(old, new))

    def snapshot(self) -> dict[str, tuple[bytes, int]]:
        files = (file for file in self.root.rglob("*") if file.is_file())
        return {str(file.relative_to(self.root)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.fixture
def raw_book(tmp_path: Path) -> Book:
    """Two chapters that were never exported."""
    return Book(tmp_path)


@pytest.fixture
def book(raw_book: Book) -> Book:
    """Two chapters, exported and in step."""
    export(raw_book.root, [])
    return raw_book
