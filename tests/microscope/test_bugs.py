"""Planted bugs: each is caught and named at its line; the same kernel without its bug is silent, and right.

The kernels are in bugs/*.cu, twice each: `name<false>` has the bug, `name<true>` has not.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import tvm_ffi

from minisgl import microscope
from minisgl.compile.machine_code import machine_code
from minisgl.kernel.utils import load_jit, make_unit

Argument = torch.Tensor | int
FOLDER = Path(__file__).with_name("bugs")


@dataclass(frozen=True)
class Bug:
    """A kernel that is called with `arguments()` and an output.

    Attributes:
        file: the source in bugs/, without its suffix.
        kind: of the finding.
        arguments: makes the arguments before the output.
        output: shape of an output that nobody has written yet, or makes one that the kernel may read.
        expected: the right output for the arguments.
    """

    file: str
    kind: str
    arguments: Callable[[], Sequence[Argument]]
    output: tuple[int, ...] | Callable[[], torch.Tensor]
    expected: Callable[..., torch.Tensor]


def ints(*shape: int) -> torch.Tensor:
    return torch.randint(-99, 99, shape, dtype=torch.int32)


def floats(*shape: int) -> torch.Tensor:
    """Return small whole numbers: their sums are exact in any order."""
    return torch.randint(-9, 9, shape).float()


def swapped(x: torch.Tensor) -> torch.Tensor:
    """Swap the elements of each pair; a last one without a partner gets 0."""
    return torch.nn.functional.pad(x, (0, len(x) % 2)).view(-1, 2).flip(1).flatten()[: len(x)]


def plus_left_neighbour(x: torch.Tensor) -> torch.Tensor:
    return x + torch.nn.functional.pad(x, (1, 0))[:-1]


BUGS = {
    "missing_barrier": Bug("barriers", "race", lambda: [ints(256)], (256,), lambda x: x.view(2, 128).flip(1).flatten()),
    "missing_second_barrier": Bug(
        "barriers", "race", lambda: [ints(256)], (64,), lambda x: x.view(4, 64).cumsum(1).sum(0)
    ),
    "missing_syncwarp": Bug("barriers", "race", lambda: [ints(64)], (64,), swapped),
    "warp_barrier_for_block": Bug("barriers", "race", lambda: [floats(256)], (2,), lambda x: x.view(2, 128).sum(1)),
    "shuffle_for_barrier": Bug("barriers", "race", lambda: [ints(32)], (32,), lambda x: x.flip(0) - x[0]),
    "divergent_barrier": Bug("barriers", "failed launch", lambda: [ints(100)], (100,), swapped),
    "barrier_in_uneven_loop": Bug("barriers", "failed launch", lambda: [ints(150)], (150,), swapped),
    "wrong_mask": Bug("barriers", "failed launch", lambda: [ints(2, 16)], (2,), lambda x: x.sum(1)),
    "shuffle_from_returned_lane": Bug("barriers", "failed launch", lambda: [ints(20)], (1,), lambda x: x.sum(0)[None]),
    "read_past_end": Bug(
        "bounds", "out of bounds", lambda: [ints(100)], (100,), lambda x: torch.nn.functional.pad(x[1:], (0, 1)) - x
    ),
    "write_past_end": Bug("bounds", "out of bounds", lambda: [], (100,), lambda: 3 * torch.arange(100)),
    "dropped_guard": Bug("bounds", "out of bounds", lambda: [floats(100)], (100,), lambda x: 2 * x),
    "wrong_stride": Bug("bounds", "out of bounds", lambda: [floats(4, 40)[:, :32]], (4, 32), lambda x: x),
    "padding_written": Bug(
        "bounds", "out of bounds", lambda: [], lambda: torch.zeros(5, 24)[:, :22], lambda: torch.ones(5, 22)
    ),
    "wrong_row": Bug(
        "bounds",
        "out of bounds",
        lambda: [floats(3, 16), torch.tensor([102, 100, 101], dtype=torch.int32), 100],
        (3, 16),
        lambda x, indices, start: x[[1, 2, 0]],
    ),
    "offset_overflow": Bug("bounds", "out of bounds", lambda: [ints(64, 600).short()], (64,), lambda x: x[:, 0]),
    "hash_overflow": Bug(
        "bounds",
        "integer overflow",
        lambda: [ints(100), torch.arange(64, dtype=torch.int32) * 10_007],
        (64,),
        lambda table, keys: table[keys.long() * 40503 % 2**32 % 100],
    ),
    "misaligned_vector": Bug("bounds", "misaligned", lambda: [floats(65)[1:]], (16,), lambda x: x.view(16, 4).sum(1)),
    "static_shared_overflow": Bug("bounds", "out of bounds", lambda: [ints(256)], (1,), lambda x: x.sum(0)[None]),
    "dynamic_shared_overflow": Bug(
        "bounds", "out of bounds", lambda: [ints(64)], (64,), lambda x: torch.nn.functional.pad(x, (1, 0))[:-1]
    ),
    "blocks_write_one_element": Bug(
        "races",
        "race between blocks",
        lambda: [ints(96)],
        lambda: torch.zeros(1, dtype=torch.int32),
        lambda x: x.sum(0)[None],
    ),
    "block_reads_another_block": Bug("races", "race between blocks", lambda: [ints(192)], (192,), plus_left_neighbour),
    "plain_counter": Bug(
        "races", "race", lambda: [ints(128) % 8], (8,), lambda experts: torch.bincount(experts, minlength=8)
    ),
    "result_without_fence": Bug(
        "races",
        "race between blocks",
        lambda: [ints(96), torch.zeros(3, dtype=torch.int32)],
        lambda: torch.zeros(2, dtype=torch.int32),
        lambda x, partial: torch.tensor([3, x.sum()]),
    ),
    "shared_read_before_write": Bug(
        "uninitialised", "read before write", lambda: [ints(128)], (1,), lambda x: x.sum(0)[None]
    ),
    "output_read_before_write": Bug(
        "uninitialised", "read before write", lambda: [floats(8, 5)], (8,), lambda x: x.sum(1)
    ),
    "accumulator_not_zeroed": Bug(
        "uninitialised",
        "read before write",
        lambda: [ints(128) % 8],
        (8,),
        lambda experts: torch.bincount(experts, minlength=8),
    ),
    "tile_tail_not_filled": Bug(
        "uninitialised", "read before write", lambda: [floats(50)], (64,), lambda x: x.sum(0).expand(64)
    ),
}


def planted(file: str) -> dict[str, int]:
    """Return the lines of a source that are marked as bugs, by name."""
    lines = enumerate((FOLDER / f"{file}.cu").read_text().splitlines(), 1)
    return {match[1]: number for number, line in lines if (match := re.search(r"// BUG: (\w+)$", line))}


def wrappers(file: str) -> list[tuple[str, str]]:
    choices = (("bug", "false"), ("repaired", "true"))
    return [(f"{name}_{kind}", f"minisgl::test::{name}<{value}>") for name in planted(file) for kind, value in choices]


def load(file: str) -> tvm_ffi.Module:
    return load_jit(file, cuda_files=[FOLDER / f"{file}.cu"], cuda_wrappers=wrappers(file), target="host")


def observe(name: str, kind: str) -> tuple[microscope.View, torch.Tensor, torch.Tensor]:
    """Run a kernel under the microscope; return its view, its output and the right output."""
    torch.manual_seed(0)
    bug = BUGS[name]
    arguments = bug.arguments()
    undefined: tuple[str, ...] = ()
    if isinstance(bug.output, tuple):
        dtype = next((x.dtype for x in arguments if isinstance(x, torch.Tensor)), torch.int32)
        output, undefined = torch.full(bug.output, 77, dtype=dtype), ("output",)
    else:
        output = bug.output()

    def launch(*args: Argument) -> None:
        getattr(load(bug.file), f"{name}_{kind}")(*args)

    view = microscope.observe(launch, *arguments, output, undefined=undefined)
    return view, output, bug.expected(*arguments)


@pytest.mark.parametrize("name", BUGS)
def test_bug_is_named_at_its_line(name: str) -> None:
    view, _, _ = observe(name, "bug")
    file = BUGS[name].file
    place = re.compile(rf"tests/microscope/bugs/{file}\.cu:{planted(file)[name]}\b")
    reports = [str(finding) for finding in view.findings if finding.kind == BUGS[name].kind]
    assert any(map(place.search, reports)), "\n".join(map(str, view.findings))


@pytest.mark.parametrize("name", BUGS)
def test_repaired_kernel_is_silent_and_right(name: str) -> None:
    view, output, expected = observe(name, "repaired")
    assert view.error is None
    assert [str(finding) for finding in view.findings] == []
    assert output.tolist() == expected.tolist()


@pytest.mark.parametrize("file", sorted({bug.file for bug in BUGS.values()}))
def test_compiled_by_nvcc(file: str) -> None:
    source = FOLDER / f"{file}.cu"
    assert len(machine_code(file, make_unit([source], wrappers(file)), [source], "sm_90")) == 2 * len(planted(file))


def test_every_planted_bug_is_tested() -> None:
    assert len(BUGS) >= 20
    assert set(BUGS) == {name for file in ("barriers", "bounds", "races", "uninitialised") for name in planted(file)}
