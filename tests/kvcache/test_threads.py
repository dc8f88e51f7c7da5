"""Many threads on one cache: in C++ under ThreadSanitizer and AddressSanitizer, and in Python."""

import random
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from programs import build_program, run_program  # type: ignore[import-not-found]  # tests/ is on the path

from minisgl.compile import sources
from minisgl.kvcache import RadixPrefixCache

SOURCE = Path(__file__).with_name("threads.cpp")
ROUNDS = 500
SANITIZERS = ["thread", "address,undefined"]


def build(folder: Path, sanitizer: str, csrc: Path | None = None) -> Path:
    flags = ["-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    program: Path = build_program(folder, "g++", SOURCE, flags, csrc)
    started = run_program(folder / "empty")
    if started.returncode != 0:
        pytest.skip(f"no program with -fsanitize={sanitizer} runs here: {started.stderr.strip()}")
    return program


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_threads_of_cpp(tmp_path: Path, sanitizer: str) -> None:
    result = run_program(build(tmp_path, sanitizer), "600")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("4 threads, ")


def test_the_mutex_is_what_makes_threads_safe(tmp_path: Path) -> None:
    """The same without it: if ThreadSanitizer found nothing then, the test above would say nothing."""
    header = "include/minisgl/radix_tree.h"
    text = sources.find_source(header).read_text()
    guard = "const std::lock_guard guard(mutex_);"
    assert text.count(guard) >= 8
    copy = tmp_path / header
    copy.parent.mkdir(parents=True)
    copy.write_text(text.replace(guard, ""))
    shutil.copy(sources.find_source("include/minisgl/radix_tree_inspection.h"), copy.parent)
    result = run_program(build(tmp_path, "thread", tmp_path), "600")
    assert result.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in result.stderr


@pytest.fixture
def switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("switching_often")
@pytest.mark.parametrize("page_size", [1, 4])
def test_threads_of_python(page_size: int) -> None:
    """Each thread looks up shared ids and its own. The index of a token tells all tokens up to it."""
    cache = RadixPrefixCache("cpu", page_size)
    freed: list[int] = []
    kept: list[int] = []
    failures: list[BaseException] = []

    def work(name: int) -> None:
        rng = random.Random(name)
        for _ in range(ROUNDS):
            tokens = [rng.choice([0, name])] + [int(rng.random() < 0.1) for _ in range(rng.randrange(60))]
            ids = torch.tensor(tokens, dtype=rng.choice([torch.int32, torch.int64]))
            handle = cache.match_and_lock(ids).handle
            known = [hash(tuple(tokens[: end + 1])) % 2**31 for end in range(len(tokens))]
            assert handle.get_matched_indices().tolist() == known[: handle.cached_len]
            if rng.random() < 0.3:
                freed.extend(evict_about(cache, rng.randrange(200)))
            result = cache.insert_and_unlock(ids, torch.tensor(known), handle)
            kept.extend(known[result.cached_len : result.handle.cached_len])
            if rng.random() < 0.05:
                cache.check_integrity()

    def guarded(name: int) -> None:
        try:
            work(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(name,)) for name in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    cache.check_integrity()
    assert cache.size_info == (len(kept) - len(freed), 0)
    assert cache.stats.lookups == 8 * ROUNDS
    freed += cache.evict(cache.size_info.evictable_size).tolist()
    assert sorted(freed) == sorted(kept)


def evict_about(cache: RadixPrefixCache, size: int) -> list[int]:
    """Evict; nothing, if other threads leave too little between the question and the call."""
    try:
        return cache.evict(min(size, cache.size_info.evictable_size)).tolist()
    except RuntimeError:
        return []
