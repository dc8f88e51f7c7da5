"""The outline of a new chapter."""

import re
from pathlib import Path

from minisgl.book.chapter import parse, stems
from minisgl.book.errors import BookError
from minisgl.book.export import Plan

_HEADER = """\
---
jupyter:
  kernelspec:
    display_name: Python 3 (ipykernel)
    language: python
    name: python3
---

"""
_SECTIONS = {
    "Hook": "Where does the engine call this? What will the reader see on their own machine?",
    "Contract": "Arguments, shapes, dtypes, errors: what a caller may rely on.",
    "Oracle": "The PyTorch reference, and the edge cases.",
    "Predict": "Bytes, operations and the roofline bound, before any kernel.",
    "Naive kernel": "The first version that is right, in scratch cells.",
    "See it": "The microscope: what each lane touches.",
    "Measure": "Live, or recorded with its provenance; say which.",
    "Improve": "One idea per step: difference, test, picture, number, PTX or SASS.",
    "Ship": "The exported cells, and a check that the import works.",
    "Break it": "A seeded bug, and the tool that finds it.",
    "Quiz and exercises": "A quiz and three exercises: hint, then folded solution.",
    "Takeaways": "Prediction against measurement, limits, and the next chapter.",
}
_SLUG_LENGTH = 40


def new(root: Path, title: str) -> list[str]:
    """Write the outline of a chapter under the next free number; return a line per file written."""
    title = " ".join(title.split())
    slug = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:_SLUG_LENGTH].rstrip("_")
    if not slug:
        raise BookError(f"expected a title with a letter or a digit in it, got {title!r}")
    known = stems(root)
    if taken := [stem for stem in known if stem[3:] == slug]:
        raise BookError(f"expected a title that is not taken, got {title!r}, which is notebooks/{taken[0]}.md")
    number = max((int(stem[:2]) for stem in known), default=0) + 1
    if number > 99:
        raise BookError("expected at most 99 chapters, got one more")
    chapter = parse(root, f"{number:02d}_{slug}", _outline(title))
    result = Plan(root)
    result.write_pair(chapter)
    return result.apply()


def _outline(title: str) -> str:
    sections = [f"## {heading}\n\n<!-- {prompt} -->\n" for heading, prompt in _SECTIONS.items()]
    setup = "```python\n%load_ext minisgl.book\n```\n"
    return _HEADER + "\n".join([f"# {title}\n", setup, *sections])
