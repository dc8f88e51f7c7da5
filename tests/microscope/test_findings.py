"""What the checks find, what they say about it, and what they must not find."""

import contextlib
import random
import re
from pathlib import Path

import pytest
import torch
import tvm_ffi

from minisgl import microscope
from minisgl.kernel import indexing
from minisgl.kernel.utils import load_jit

SOURCE = Path(__file__).with_name("findings.cu")
SILENT = ("last_block", "neighbours", "twice", "cleared", "pairs", "lock", "warp_lock", "padding", "table")
FAULTS = (
    *("tensor", "wild", "shared", "local", "overflow", "division", "aligned", "memcpy", "atomic"),
    *("atomic_aligned", "memcpy_to"),
)
WRAPPERS = [
    (name, f"minisgl::test::{name}")
    for name in (*SILENT, "not_cleared", "unfenced", "diverging", "beyond", "dynamic", "spin", "strided")
]
WRAPPERS += [("last_warp", "minisgl::test::last_warp<true>"), ("last_warp_block", "minisgl::test::last_warp<false>")]
WRAPPERS += [("sum_shared", "minisgl::test::sum<true>"), ("sum_global", "minisgl::test::sum<false>")]
WRAPPERS += [(name, f"minisgl::test::fault<{i}>") for i, name in enumerate(FAULTS)]
WRAPPERS += [("program_shared", "minisgl::test::program<true>"), ("program_global", "minisgl::test::program<false>")]
ORDERS = ["forward", "reverse", "shuffle:1", "shuffle:2"]


def load() -> tvm_ffi.Module:
    return load_jit("findings_test", cuda_files=[SOURCE], cuda_wrappers=WRAPPERS, target="host")


def observe(name: str, *args: object, **options: object) -> microscope.View:
    def launch(*args: object) -> None:
        getattr(load(), name)(*args)

    return microscope.observe(launch, *args, **options)  # type: ignore[arg-type]


def marked(name: str) -> int:
    """Return the line that is marked with `// HERE: name`."""
    lines = [i for i, text in enumerate(SOURCE.read_text().splitlines(), 1) if text.endswith(f"// HERE: {name}")]
    assert len(lines) == 1
    return lines[0]


def ints(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.int32).view(shape)


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MINISGL_HOST_ORDER", request.param)
    return request.param


@pytest.mark.usefixtures("order")
def test_last_block_with_fences_is_silent() -> None:
    source, partial, output = ints(160), torch.zeros(160, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    ticket = torch.zeros(1, dtype=torch.int32)
    view = observe("last_block", source, partial, ticket, output)
    assert [str(finding) for finding in view.findings] == []
    assert torch.equal(output, 2 * source.view(5, 32).sum(0, dtype=torch.int32))
    assert ticket.item() == 0


@pytest.mark.usefixtures("order")
def test_neighbouring_bytes_and_partial_warps_are_silent() -> None:
    source = torch.arange(64, dtype=torch.uint8)
    output = torch.zeros_like(source)
    view = observe("neighbours", output, source)
    races = [finding for finding in view.findings if finding.memory and finding.memory.space == "shared"]
    assert races == []
    assert output.tolist() == source.view(32, 2).flip(1).flatten().tolist()
    (same_output,) = view.findings  # all three blocks write the same bytes, which is a race even of equal values
    assert same_output.kind == "race between blocks"


def test_in_place_and_two_launches_are_silent() -> None:
    values = torch.ones(16)
    view = observe("twice", values, values)
    assert view.findings == []
    assert values.tolist() == [4.0] * 16
    assert [memory.name for memory in view.memories] == ["inout", "same"] * 2


def test_undefined_argument() -> None:
    source = torch.ones(32)
    for name, expected in (("cleared", 0), ("not_cleared", 1)):
        view = observe(name, torch.zeros(4), source, undefined=("output",))
        assert len(view.findings) == expected
    finding = view.findings[0]
    assert finding.kind == "read before write"
    assert finding.count == 4  # each element once
    assert "thread 0 of block 0 atomically changes output[0] before anything has written it" in str(finding)
    first = observe("twice", torch.ones(16), torch.ones(16), undefined=("same",))
    assert [finding.count for finding in first.findings] == [32]
    reads_first_result = observe("twice", (values := torch.ones(16)), values, undefined=("inout", "same"))
    assert [finding.count for finding in reads_first_result.findings] == [16]  # the second launch reads what is written


def test_structure_aligned_to_half_its_size_is_silent() -> None:
    memory = torch.arange(9, dtype=torch.int64)
    for start in (0, 1):
        output = torch.zeros(9, dtype=torch.int64)[start:][:8]
        view = observe("pairs", output, memory[start:][:8])
        assert view.findings == []


@pytest.mark.parametrize(
    ("name", "n", "kind", "says"),
    [
        (
            "tensor",
            8,
            "out of bounds",
            "thread 24 of block 0 reads 4 bytes just past the end of input [32] int32, where element [32] would be",
        ),
        (
            "tensor",
            -3,
            "out of bounds",
            "reads 4 bytes 12 bytes before the start of input [32] int32, where element [-3] would be",
        ),
        ("wild", 1, "out of bounds", "thread 0 of block 0 reads 4 bytes through a null pointer"),
        (
            "wild",
            12345678,
            "out of bounds",
            "4 bytes at address 0x2f185380, far from every argument (output [32] int32, input [32] int32)",
        ),
        ("shared", 1, "out of bounds", "thread 31 of block 0 uses index 32 of tile, an array int [32]"),
        ("shared", -1, "out of bounds", "thread 0 of block 0 uses index -1 of tile, an array int [32]"),
        ("local", 0, "out of bounds", "thread 4 of block 0 uses index 4 of local, an array int [4]"),
        ("overflow", 3, "integer overflow", "thread 0 of block 0 computes 3 * 1000000000, which does not fit into int"),
        ("division", 4, "division", "thread 0 of block 0 computes 0 / 0"),
        ("aligned", 0, "misaligned", "int2 at byte 4 of input, whose address is no multiple of 8"),
        (
            "atomic_aligned",
            6,
            "misaligned",
            "thread 0 of block 0 atomically changes 4 bytes at byte 6 of output, whose address is no multiple of 4",
        ),
        ("memcpy_to", 25, "out of bounds", "writes 32 bytes of which 4 bytes lie past the end"),
        (
            "memcpy",
            33,
            "out of bounds",
            "thread 0 of block 0 reads 132 bytes of which 4 bytes lie past the end of input",
        ),
        (
            "atomic",
            40,
            "out of bounds",
            "thread 1 of block 0 atomically changes 4 bytes 32 bytes past the end of output",
        ),
    ],
)
def test_fault_is_named(name: str, n: int, kind: str, says: str) -> None:
    memory = torch.zeros(66, dtype=torch.int32)
    start = -memory.data_ptr() % 8 // 4
    source, output = memory[start : start + 32], torch.zeros(32, dtype=torch.int32)
    view = observe(name, output, source, n)
    (finding,) = (finding for finding in view.findings if finding.kind == kind)
    assert finding.sources[0].line == marked(name)
    assert f"tests/microscope/findings.cu:{marked(name)}" in str(finding)
    assert says in str(finding)
    ends = kind != "integer overflow"
    assert view.launches[0].finished != ends
    assert isinstance(view.error, RuntimeError) == ends
    assert name == "atomic" or not output.any() or not ends  # nothing was written
    assert observe("twice", torch.ones(4), torch.ones(4)).findings == []  # the next one works


@pytest.mark.parametrize("lanes", [(0, 1), (0, 40)])
@pytest.mark.usefixtures("order")
def test_lock_of_two_lanes_is_silent(lanes: tuple[int, int]) -> None:
    lock, total = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    assert observe("lock", lock, total, *lanes).findings == []
    assert (lock.item(), total.item()) == (0, sum(lanes))


def test_lock_of_whole_warps_is_silent() -> None:
    lock, sums = torch.zeros(1, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    assert observe("warp_lock", lock, sums).findings == []
    assert torch.equal(sums, 4 * ints(32))


@pytest.mark.usefixtures("order")
def test_fences_of_all_lanes_before_the_ticket_of_one() -> None:
    def view(name: str) -> microscope.View:
        zeros = [torch.zeros(n, dtype=torch.int32) for n in (96, 1, 32)]
        return observe(name, ints(96), *zeros)

    assert view("last_warp").findings == []
    findings = view("last_warp_block").findings  # __threadfence_block is for one block
    assert {finding.kind for finding in findings} == {"race between blocks"}
    assert findings[0].sources[0].line == marked("last_warp")


def test_structure_with_padding_is_silent() -> None:
    source, output = torch.randn(32).abs(), torch.zeros(1)
    assert observe("padding", output, source).findings == []
    assert output == source.max()


def test_table_of_constants_is_not_shared_memory() -> None:
    output = torch.zeros(32, dtype=torch.int32)
    view = observe("table", output)
    assert view.findings == []
    assert [memory.name for memory in view.memories if memory.space == "shared"] == ["shared"]
    assert output.tolist() == [70, 50, 30, 20] * 8


@pytest.mark.parametrize(
    ("name", "blocks", "num_threads", "reader"),
    [("shared", 1, 64, 0), ("shared", 1, 64, 63), ("global", 1, 64, 40), ("global", 3, 1, 0)],
)
@pytest.mark.usefixtures("order")
def test_plain_read_beside_atomics(name: str, blocks: int, num_threads: int, reader: int) -> None:
    zeros = [torch.zeros(n, dtype=torch.int32) for n in (1, blocks)]
    findings = observe(f"sum_{name}", *zeros, num_threads, reader).findings
    assert {finding.kind for finding in findings} == {"race between blocks" if blocks > 1 else "race"}
    assert all("a plain read of a value that others change atomically" in str(finding) for finding in findings)
    assert findings[0].sources[0].line in (marked("sum"), marked("sum") - 2)


@pytest.mark.parametrize("n", [-600, -120, -1, 32, 60, 150, 600, 2000])
def test_overflow_never_hits_the_array_of_another_kernel(n: int) -> None:
    (finding,) = observe("beyond", torch.zeros(32, dtype=torch.int32), n).findings
    distance = f"{4 * n - 128} bytes past the end" if n > 32 else "just past the end" if n > 0 else "before the start"
    dynamic = "dynamic shared memory, of which the launch asked for 0"
    assert f"{distance} of the shared small of 128 bytes" in str(finding) or dynamic in str(finding)
    assert finding.sources[0].line == marked("small")


@pytest.mark.parametrize("asked", [0, 64])
def test_too_little_dynamic_shared_memory(asked: int) -> None:
    (finding,) = observe("dynamic", torch.zeros(32, dtype=torch.int32), asked).findings
    assert f"at byte {asked} of dynamic shared memory, of which the launch asked for {asked}" in str(finding)
    assert finding.thread == asked // 4


def test_endless_wait_ends() -> None:
    view = observe("spin", torch.zeros(32, dtype=torch.int32), 31)
    finding = view.findings[-1]
    assert finding.kind == "endless wait"
    assert "thread 31 of block 0 seems to wait in a loop for another thread to change bytes 0 to 3 of" in str(finding)
    assert finding.sources[0].line == marked("spin")
    assert not view.launches[0].finished


def test_pictures_of_a_launch_that_ended_at_once() -> None:
    view = observe("dynamic", torch.zeros(32, dtype=torch.int32), 0)
    for picture in (view.sectors, view.banks, view.timeline, view.steps):
        with pytest.raises(ValueError, match=r"which ended early: view\.findings says why"):
            picture()


def test_gap_of_one_dimension() -> None:
    (finding,) = observe("strided", torch.zeros(4, dtype=torch.int32), ints(64)[::2]).findings
    assert "reads 4 bytes in the gap behind element [0] of input [32] int32, at" in str(finding)


def test_views_with_gaps_are_silent() -> None:
    table = torch.randn(10, 256)[:, 64:192]
    view = microscope.observe(indexing, table, torch.arange(20)[:10])
    assert view.findings == []
    assert torch.equal(view.result, table)  # type: ignore[arg-type]


def test_atomic_without_a_fence_orders_nothing() -> None:
    zeros = [torch.zeros(n, dtype=torch.int32) for n in (3, 1, 1)]
    (finding,) = observe("unfenced", *zeros).findings
    assert finding.kind == "race between blocks"
    place = rf"tests/microscope/findings\.cu:{marked('unfenced')}"
    before = rf"tests/microscope/findings\.cu:{marked('unfenced') - 1}"
    message = rf"thread 0 of block 2 reads argument 0\[0\] at {place}; thread 0 of block 0 wrote it at {before}"
    assert re.search(message, str(finding))
    assert [source.line for source in finding.sources] == [marked("unfenced"), marked("unfenced") - 1]


def test_launch_that_fails_by_itself() -> None:
    view = observe("diverging", torch.zeros(32, dtype=torch.int32))
    assert isinstance(view.error, RuntimeError)
    assert view.findings[-1].kind == "failed launch"
    assert f"findings.cu:{marked('diverging')}" in str(view.findings[-1])
    assert not view.launches[0].finished


def test_failures_that_the_function_catches_are_found() -> None:
    calls = (
        lambda: load().diverging(torch.zeros(32, dtype=torch.int32)),
        lambda: load().twice(torch.ones(4), torch.ones(4)),
        *[lambda: load().memcpy(torch.zeros(32, dtype=torch.int32), ints(32), 33)] * 2,
        lambda: load().diverging(torch.zeros(32, dtype=torch.int32)),
    )

    def launch() -> None:
        for call in calls:
            with contextlib.suppress(RuntimeError):
                call()

    view = microscope.observe(launch)
    assert view.error is None
    assert [launch.finished for launch in view.launches] == [False, True, True, False, False, False]
    kinds = [(finding.kind, finding.launch, finding.count) for finding in view.findings]
    assert kinds == [("out of bounds", 3, 2), ("failed launch", 0, 1), ("failed launch", 5, 1)]
    assert "diverging did not finish, and the observed function caught its error" in str(view.findings[1])


# ---- Random programs: one cell, many threads, barriers of the block and of parts of warps

NOTHING, READ, WRITE, ATOMIC, SYNC_THREADS, SYNC_WARP = range(6)
NUM_THREADS = 40


def make_program(rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what each thread does in each step, and the masks of its __syncwarp calls."""
    steps = rng.randint(2, 8)
    palette = rng.choice([[READ, READ, WRITE, ATOMIC], [READ, ATOMIC, ATOMIC, ATOMIC]])
    ops = torch.zeros(steps, 1, NUM_THREADS, dtype=torch.int32)
    masks = torch.zeros_like(ops)
    for step in range(steps):
        kind = rng.random()
        if kind < 0.15:
            ops[step] = SYNC_THREADS
        elif kind < 0.5:
            for first in (0, 32):
                lanes = [t for t in range(first, min(first + 32, NUM_THREADS)) if rng.random() < 0.8]
                mask = sum(1 << (t - first) for t in lanes)
                for t in lanes:
                    ops[step, 0, t] = SYNC_WARP
                    masks[step, 0, t] = mask - 2**32 if mask >= 2**31 else mask
        else:
            for t in rng.sample(range(NUM_THREADS), rng.randint(1, 3)):
                ops[step, 0, t] = rng.choice(palette)
    return ops, masks


def has_race(ops: torch.Tensor, masks: torch.Tensor) -> bool:
    """Compare every pair of accesses by vector clocks: the definition, without shortcuts."""
    clocks = [[0] * NUM_THREADS for _ in range(NUM_THREADS)]
    seen: list[tuple[int, int, list[int]]] = []
    for step_ops, step_masks in zip(ops[:, 0].tolist(), masks[:, 0].tolist(), strict=True):
        groups: dict[tuple[int, int, int], list[int]] = {}
        for t, op in enumerate(step_ops):
            if op in (READ, WRITE, ATOMIC):
                clocks[t][t] += 1
                seen.append((t, op, list(clocks[t])))
            elif op == SYNC_THREADS:
                groups.setdefault((op, 0, 0), []).append(t)
            elif op == SYNC_WARP:
                groups.setdefault((op, t // 32, step_masks[t]), []).append(t)
        for group in groups.values():
            joined = [max(column) for column in zip(*(clocks[t] for t in group), strict=True)]
            for t in group:
                clocks[t] = list(joined)
    for i, (t, op, clock) in enumerate(seen):
        for u, other, other_clock in seen[i + 1 :]:
            conflict = t != u and not (op == other == READ) and not (op == other == ATOMIC)
            if conflict and other_clock[t] < clock[t] and clock[u] < other_clock[u]:
                return True
    return False


@pytest.mark.parametrize("space", ["shared", "global"])
@pytest.mark.usefixtures("order")
def test_races_of_random_programs(space: str) -> None:
    rng = random.Random(space)
    answers = []
    for number in range(40):
        ops, masks = make_program(rng)
        view = observe(f"program_{space}", ops, masks, ops.new_zeros(1), ops.new_zeros(NUM_THREADS))
        assert view.error is None
        races = [str(finding) for finding in view.findings if finding.kind.startswith("race")]
        answers.append(has_race(ops, masks))
        assert bool(races) == answers[-1], (number, races, ops[:, 0].tolist(), masks[:, 0].tolist())
    assert 5 < sum(answers) < 35  # both kinds are there
