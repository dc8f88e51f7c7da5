"""The book's own machinery: export, check, update, pages, and the `%%c++` magic.

`%load_ext minisgl.book` gives a notebook the magic `%%c++ [-a] PATH` or `%%c++ --scratch [-a] NAME`, compiler
errors without a traceback, and the figure style.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load_ipython_extension(shell: "InteractiveShell") -> None:
    """Register the `%%c++` magic, the handler of compiler errors, and the figure style."""
    from minisgl.book.magic import register
    from minisgl.book.plots import set_up_plots

    register(shell)
    set_up_plots()
