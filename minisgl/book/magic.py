"""The `%%c++` cell magic: the session compiles the edited text at once, and `csrc/` stays as it is."""

import os
import re
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from minisgl.book import directives
from minisgl.book.chapter import Chapter, read_markdown, read_raw_notebook, stems
from minisgl.book.directives import Directive
from minisgl.book.errors import BookError
from minisgl.book.files import read_text
from minisgl.book.session import DiskCell, SessionFile, Slot
from minisgl.compile import CompileError, sources

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class CppMagic:
    """The `%%c++` cells of one session."""

    def __init__(self, shell: "InteractiveShell") -> None:
        self.shell = shell
        self.files: dict[str, SessionFile] = {}
        # Compilers read the lines that they quote from these copies; the folder goes when the session does.
        self.folder = tempfile.TemporaryDirectory(prefix="minisgl-book-")
        self.copies: dict[tuple[str, int, str], Path] = {}

    def __call__(self, line: str, cell: str) -> None:
        """Run a `%%c++` cell: use its text, in its place, whenever its file is compiled from now on."""
        try:
            self._run(line, cell.strip("\n"))
        except BookError as error:
            raise UsageError(str(error)) from None
        except (OSError, UnicodeError) as error:
            raise UsageError(f"%%c++ {line}: the cell could not be kept: {error}") from None

    def _run(self, line: str, text: str) -> None:
        directive = directives.parse_magic(line)
        if directive.scratch and sources.is_shipped(directive.path):
            raise BookError(f"%%c++ --scratch: expected a name that no file of the package has, got {directive.path}")
        root = sources.repository_root()
        chapter = _owner(root, directive) if root else None
        cells = disk_cells(chapter, directive) if chapter else []
        session = self.files.setdefault(directive.path, SessionFile())
        slots = session.run(cells, _frontend_id(self.shell), text, directive.append)
        if directive.scratch:
            # A scratch file is what has run; the chapter only tells where its lines are.
            slots = sorted((slot for slot in slots if slot.run), key=lambda slot: _scratch_order(session, slot))
        sources.set_overlay(directive.path, "".join(self._part(slot, chapter, directive) for slot in slots))

    def _part(self, slot: Slot, chapter: Chapter | None, directive: Directive) -> str:
        line = slot.disk.line if slot.disk else 1
        if chapter and slot.disk and slot.disk.text == slot.text:
            file = chapter.markdown_path
        else:
            name = f"notebooks/{chapter.stem}.md" if chapter else directive.path
            file = self._padded_copy(name, line, slot.text)
        return f'#line {line} "{file.as_posix()}"\n{slot.text}\n'

    def _padded_copy(self, name: str, line: int, text: str) -> Path:
        """Write `text` where its chapter has it, so that a compiler quotes the edited text and not the saved one."""
        key = (name, line, text)
        if key not in self.copies:
            file = Path(self.folder.name, f"cell-{len(self.copies)}", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n" * (line - 1) + text + "\n")
            self.copies[key] = file
        return self.copies[key]

    def clean(self, message: str) -> str:
        """Shorten the paths of a compiler's message to those that a reader knows."""
        message = re.sub(re.escape(self.folder.name) + r"/cell-\d+/", "", message)
        root = sources.repository_root()
        return message.replace(f"{root}{os.sep}", "") if root else message

    def show_error(
        self,
        shell: Any,
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
        tb_offset: int | None = None,
    ) -> list[str]:
        """Show a CompileError as the compiler's message, without a traceback; the cell still fails."""
        message = self.clean(str(error)).rstrip()
        error.args = (message,)
        shown = [message]
        if hasattr(shell, "kernel"):
            shell._showtraceback(kind, error, shown)
            shell._last_traceback = shown
        else:
            print(message, file=sys.stderr)
        return shown


def register(shell: "InteractiveShell") -> CppMagic:
    """Register `%%c++` and the handler of compiler errors. Loading the extension again keeps what was run."""
    known = shell.magics_manager.magics["cell"].get("c++")
    magic = known if isinstance(known, CppMagic) else CppMagic(shell)
    shell.magics_manager.register_function(magic, magic_kind="cell", magic_name="c++")
    shell.set_custom_exc((CompileError,), magic.show_error)
    return magic


def disk_cells(chapter: Chapter, directive: Directive) -> list[DiskCell]:
    """Return the chapter's cells of a file, as they are on disk."""
    found = []
    for cell, cell_id in zip(chapter.cells, _ids(chapter), strict=True):
        try:
            other = cell.directive
        except BookError:
            continue
        if other and (other.path, other.scratch) == (directive.path, directive.scratch):
            found.append(DiskCell(cell_id, directives.body(cell.source), cell.line, other.append))
    return found


def _ids(chapter: Chapter) -> list[str]:
    """Return the ids that a frontend knows the cells by: those of the saved notebook if it has the same cells."""
    own = [cell.id for cell in chapter.cells]
    try:
        cells = read_raw_notebook(chapter.root, chapter.stem).cells
    except (BookError, OSError):
        return own
    same = [cell.cell_type for cell in cells] == [cell.kind for cell in chapter.cells]
    return [cell.get("id") or known for cell, known in zip(cells, own, strict=True)] if same else own


def _owner(root: Path, directive: Directive) -> Chapter | None:
    """Return the chapter that holds the file's cells; of several with a scratch file of one name, the running one."""
    name = Path(directive.path).name
    found = []
    for stem in stems(root):
        path = root / "notebooks" / f"{stem}.md"
        if path.is_file() and name in read_text(path):
            chapter = read_markdown(root, stem)
            if disk_cells(chapter, directive):
                found.append(chapter)
    running = Path(os.environ.get("JPY_SESSION_NAME", "")).stem
    return next((chapter for chapter in found if chapter.stem == running), found[0] if len(found) == 1 else None)


def _frontend_id(shell: Any) -> str | None:
    kernel = getattr(shell, "kernel", None)
    parent = kernel.get_parent() if kernel is not None else None
    return ((parent or {}).get("metadata") or {}).get("cellId")


def _scratch_order(session: SessionFile, slot: Slot) -> tuple[bool, int]:
    return slot.append, next(index for index, run in enumerate(session.runs) if run is slot.run)
