"""Links of a chapter, rewritten so that they work on the page that is made of it."""

import os
import re
from pathlib import Path, PurePosixPath

from minisgl.book.files import read_text

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)((?:\s+\"[^\"]*\")?)\)")
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|#|/", re.IGNORECASE)
_BRANCH = "main"


def rewrite_links(root: Path, text: str, pictures: dict[str, Path]) -> str:
    """Rewrite the relative links of a Markdown cell; code is left alone.

    A picture of the repository is entered into `pictures`: the name that the page uses, and the file to copy.
    """
    parts = re.split(r"(^(?:```|~~~).*?^(?:```|~~~)[^\S\n]*$|`[^`\n]+`(?!\]))", text, flags=re.MULTILINE | re.DOTALL)
    for index in range(0, len(parts), 2):
        parts[index] = _LINK.sub(lambda match: _rewrite(root, match, pictures), parts[index])
    return "".join(parts)


def _rewrite(root: Path, match: re.Match[str], pictures: dict[str, Path]) -> str:
    bang, label, target, title = match.groups()
    if _ABSOLUTE.match(target):
        return match[0]
    target, hash_mark, anchor = target.partition("#")
    path = PurePosixPath(os.path.normpath(f"notebooks/{target}"))
    if bang:
        pictures[path.name] = root / path
        return f"![{label}](@page/{path.name}{title})"
    if path.parent == PurePosixPath("notebooks") and path.suffix in (".md", ".ipynb") and path.stem[:2].isdigit():
        return f"[{label}]({path.stem}.md{hash_mark}{anchor}{title})"
    if path.parts[0] == "docs":
        return f"[{label}]({os.path.relpath(path, 'docs/chapters')}{hash_mark}{anchor}{title})"
    if url := repository_url(root):
        return f"[{label}]({url}/blob/{_BRANCH}/{path}{hash_mark}{anchor}{title})"
    return label if "`" in label else f"`{label}`"


def repository_url(root: Path) -> str | None:
    """Return `repo_url` of `mkdocs.yml`, if there is one."""
    file = root / "mkdocs.yml"
    match = re.search(r"^repo_url:\s*[\"']?([^\s\"'#]+)", read_text(file), re.MULTILINE) if file.is_file() else None
    return match[1].rstrip("/") if match else None
