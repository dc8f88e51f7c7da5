"""Which half of a pair was edited: the one that no longer holds what both held when they last agreed."""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from minisgl.book.chapter import Chapter, parse
from minisgl.book.errors import BookError
from minisgl.book.files import write_text

_AGREED = Path("build", "book", "agreed.json")


def edited_half(markdown: Chapter, notebook: Chapter) -> Literal["md", "ipynb"] | None:
    """Return the half that was edited, or None if both were, or if nothing tells.

    A half is unedited if it holds what the pair held at its last export here, or in the last commit.
    """
    known = {_remembered(markdown.root).get(markdown.stem), _committed(markdown)}
    unedited = [_fingerprint(half) in known for half in (markdown, notebook)]
    if unedited == [False, True]:
        return "md"
    return "ipynb" if unedited == [True, False] else None


def remember(root: Path, chapters: Iterable[Chapter]) -> None:
    """Keep what the halves of these pairs hold, now that they agree."""
    agreed = _remembered(root) | {chapter.stem: _fingerprint(chapter) for chapter in chapters}
    if agreed != _remembered(root):
        write_text(root / _AGREED, json.dumps(agreed, indent=1, sort_keys=True) + "\n")


def _fingerprint(chapter: Chapter) -> str:
    cells = [(cell.kind, cell.source, cell.tags) for cell in chapter.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _remembered(root: Path) -> dict[str, str]:
    try:
        return dict(json.loads((root / _AGREED).read_text()))
    except (OSError, ValueError):
        return {}


def _committed(chapter: Chapter) -> str | None:
    command = ["git", "-C", str(chapter.root), "show", f"HEAD:./notebooks/{chapter.stem}.md"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return _fingerprint(parse(chapter.root, chapter.stem, text))
    except (OSError, subprocess.CalledProcessError, BookError):
        return None
