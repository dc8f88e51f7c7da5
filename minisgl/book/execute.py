"""Run chapters, two at a time, and turn the results into pages."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from minisgl.book import pages
from minisgl.book.chapter import Chapter, select
from minisgl.book.errors import BookError
from minisgl.book.export import load
from minisgl.book.files import write_text

TIMEOUT = 600
AT_A_TIME = 2


def build(root: Path, names: list[str], progress: Callable[[str], None] = print) -> None:
    """Execute chapters into `build/book/` and write their pages into `docs/chapters/`.

    Every chapter is tried. Raises BookError, naming cell, line and error, if any of them failed.
    """
    chapters = [load(root, stem) for stem in select(root, names)]
    failures = []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        jobs = {pool.submit(_timed, chapter): chapter for chapter in chapters}
        for job in as_completed(jobs):
            chapter = jobs[job]
            try:
                notebook, seconds = job.result()
            except BookError as error:
                failures.append((chapter.stem, str(error)))
                progress(f"{chapter.stem}  failed")
                continue
            write_text(root / "build" / "book" / f"{chapter.stem}.ipynb", nbformat.writes(notebook) + "\n")
            pages.write_page(chapter, notebook)
            progress(f"{chapter.stem}  {seconds:.1f} s")
    pages.write_index(root)
    if failures:
        raise BookError("\n\n".join(message for _, message in sorted(failures)))


def execute(chapter: Chapter, timeout: int = TIMEOUT) -> nbformat.NotebookNode:
    """Run a chapter's cells in `notebooks/` and return the notebook with its outputs."""
    notebook = nbformat.reads(chapter.normal_notebook(), as_version=4)
    folder = chapter.markdown_path.parent
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
        shutdown_kernel="immediate",  # a graceful end waits a second for nothing
        extra_arguments=["--IPKernelApp.log_level=40"],  # no warning that a kernel on this machine is not encrypted
    )
    try:
        # A Jupyter server tells the kernel its notebook in the same way.
        client.execute(env={**os.environ, "JPY_SESSION_NAME": str(chapter.notebook_path)})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise BookError(_failure(chapter, notebook, error)) from error
    return notebook


def _timed(chapter: Chapter) -> tuple[nbformat.NotebookNode, float]:
    start = time.perf_counter()
    return execute(chapter), time.perf_counter() - start


def _failure(chapter: Chapter, notebook: nbformat.NotebookNode, error: Exception) -> str:
    for cell, node in zip(chapter.cells, notebook.cells, strict=True):
        for output in node.get("outputs", []):
            if output.output_type == "error" and "raises-exception" not in cell.tags:
                trace = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
                return f"{chapter.place(cell)} failed:\n{pages.without_colours(trace)}"
    return f"notebooks/{chapter.stem}.md: {error}"
