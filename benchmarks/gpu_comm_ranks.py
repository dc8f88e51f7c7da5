"""Run a function in several processes of this machine. None of them can hang: each has a timer that ends it."""

import faulthandler
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

GRACE_S = 20.0  # between the first failure and the end of the others

Work = Callable[..., None]


def run_ranks(work: Work, ranks: int, limit_s: float, *args: object) -> list[str]:
    """Call `work(rank, ranks, rendezvous, *args)` in new processes; `rendezvous` is for `init_process_group`.

    Returns what went wrong, a line for each rank that failed.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{Path(folder, 'store')}"
        processes = [
            context.Process(target=_rank, args=(work, limit_s, rank, ranks, rendezvous, *args)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        _wait(processes, time.monotonic() + limit_s + GRACE_S)
    return [f"rank {rank}: exit code {p.exitcode}" for rank, p in enumerate(processes) if p.exitcode != 0]


def _wait(processes: list[multiprocessing.process.BaseProcess], deadline: float) -> None:
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):
            deadline = min(deadline, time.monotonic() + GRACE_S)
        time.sleep(0.1)
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def _rank(work: Work, limit_s: float, rank: int, *args: object) -> None:
    faulthandler.dump_traceback_later(limit_s, exit=True)
    # All ranks are on this machine, whose own name may lead nowhere.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    code = 0
    try:
        work(rank, *args)
    except BaseException:
        print(f"rank {rank}: {traceback.format_exc()}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no destructor may wait for a rank that has failed
