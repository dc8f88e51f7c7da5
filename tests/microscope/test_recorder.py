"""What the recorder keeps of known kernels: every access, its bytes, its thread and its line."""

import gc
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm_ffi

from minisgl import microscope
from minisgl.kernel import indexing
from minisgl.kernel.utils import load_jit
from minisgl.microscope.records import ARRIVED, BLOCK_MET, WARP_MET

SOURCE = Path(__file__).with_name("recorder.cu")
TYPES = {"uint8_t": torch.uint8, "int16_t": torch.int16, "float": torch.float32, "double": torch.float64}
WRAPPERS = [(f"scatter_{name}", f"minisgl::test::scatter<{name}>") for name in TYPES] + [
    (name, f"minisgl::test::{name}") for name in ("number", "shared", "atomics", "pieces", "refuse")
]


def load() -> tvm_ffi.Module:
    return load_jit("recorder_test", cuda_files=[SOURCE], cuda_wrappers=WRAPPERS, target="host")


def observe(name: str, *args: object, **options: object) -> microscope.View:
    def launch(*args: object) -> None:
        getattr(load(), name)(*args)

    return microscope.observe(launch, *args, **options)  # type: ignore[arg-type]


def line_of(text: str) -> int:
    """Return the number of the one line of the source that holds `text`."""
    lines = [i for i, line in enumerate(SOURCE.read_text().splitlines(), 1) if text in line]
    assert len(lines) == 1, (text, lines)
    return lines[0]


@pytest.mark.parametrize("name", TYPES)
def test_every_access_of_a_copy(name: str) -> None:
    source = torch.arange(90).to(TYPES[name])
    output = torch.zeros(270, dtype=TYPES[name])[::3]
    view = observe(f"scatter_{name}", output, source, blocks=range(2))
    assert torch.equal(output, source)
    assert view.findings == []
    assert view.error is None

    size = source.itemsize
    expected = []
    for i in range(90):
        block, thread = divmod(i, 48)
        expected.append((block, thread, "load", "input", source.data_ptr() + i * size))
        expected.append((block, thread, "store", "output", output.data_ptr() + 3 * i * size))
    got = [
        (
            a["block"],
            a["thread"],
            view.instructions[a["instruction"]].kind,
            view.memories[a["memory"]].name,
            a["address"],
        )
        for a in view.accesses
    ]
    assert sorted(got) == sorted(expected)
    assert set(view.accesses["size"]) == {size}
    assert np.array_equal(view.accesses["step"], np.arange(len(got)))
    for memory, tensor in zip(view.memories, (output, source), strict=True):
        assert (memory.space, memory.shape, memory.strides) == ("global", tuple(tensor.shape), tensor.stride())
        assert memory.dtype == str(tensor.dtype).removeprefix("torch.")
    assert [(m.bytes_read, m.bytes_written) for m in view.memories] == [(0, 90 * size), (90 * size, 0)]
    assert view.bytes_needed == 180 * size


def test_source_lines_and_inlined_callers() -> None:
    view = observe("scatter_float", torch.zeros(90), torch.ones(90))
    line = line_of("output[i * stride] = input[i];")
    assert {i.source.line for i in view.instructions} == {line}
    assert {i.source.file for i in view.instructions} == {"tests/microscope/recorder.cu"}
    assert {i.source.text for i in view.instructions} == {"output[i * stride] = input[i];"}
    view = observe("shared", torch.zeros(64, dtype=torch.int32), torch.ones(64, dtype=torch.int32))
    inner = next(i for i in view.instructions if len(i.sources) == 2)
    assert [s.line for s in inner.sources] == [line_of("inlined here"), line_of("dynamic[t] = next_of")]
    assert inner.source.function == "minisgl::test::next_of"


def test_a_line_of_a_chapter_names_the_chapter() -> None:
    view = microscope.observe(indexing, torch.randn(10, 128), torch.arange(10))
    copies = [i for i in view.instructions if i.size == 16]
    assert {i.kind for i in copies} == {"load", "store"}
    for instruction in copies:
        *helpers, kernel = instruction.sources
        assert {helper.file for helper in helpers} == {"csrc/include/minisgl/warp.cuh"}
        assert kernel.file == "csrc/jit/index.cu"
        assert re.fullmatch(r"notebooks/\d\d_index\.md", kernel.chapter)
        assert f"{kernel.file}:{kernel.line} (chapter {kernel.chapter})" in str(instruction)


def test_three_dimensions() -> None:
    output = torch.full((24, 24), -1, dtype=torch.int32)
    view = observe("number", output, blocks=range(24))
    assert torch.equal(output, torch.arange(24, dtype=torch.int32).expand(24, 24))
    assert (view.launches[0].grid, view.launches[0].block) == ((2, 3, 4), (2, 3, 4))
    assert view.launches[0].num_blocks == view.launches[0].num_threads == 24
    assert np.array_equal(view.accesses["block"] * 24 + view.accesses["thread"], np.arange(576))
    assert np.array_equal(view.accesses["offset"], np.arange(576) * 4)


def test_window_of_blocks_and_its_limit() -> None:
    output = torch.zeros(24, 24, dtype=torch.int32)
    assert set(observe("number", output).accesses["block"]) == {0}
    assert set(observe("number", output, blocks=(3, 7)).accesses["block"]) == {3, 7}
    assert set(observe("number", output, blocks=np.arange(2), max_records=np.int64(900)).accesses["block"]) == {0, 1}
    view = observe("number", output, blocks=range(24), max_records=100)
    assert len(view.accesses) == 100
    assert len(view.notes) == 1
    assert "max_records" in view.notes[0]
    assert sum(figure.accesses for figure in view.figures) == 576


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffle:3"])
def test_shared_memory_and_events(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISGL_HOST_ORDER", order)
    source = torch.randint(0, 99, (64,), dtype=torch.int32)
    output = torch.zeros_like(source)
    view = observe("shared", output, source)
    following = torch.cat([source[1:], source.new_zeros(1)])
    assert torch.equal(output, following.view(32, 2).flip(1).flatten())
    assert [str(finding) for finding in view.findings] == []

    by_name = {memory.name: memory for memory in view.memories}
    assert (by_name["fixed"].space, by_name["fixed"].span_bytes) == ("shared", 260)
    assert (by_name["dynamic shared memory"].space, by_name["dynamic shared memory"].span_bytes) == (
        "dynamic shared",
        256,
    )
    counts = {name: int((view.accesses["memory"] == memory.index).sum()) for name, memory in by_name.items()}
    assert counts == {"argument 0": 64, "argument 1": 64, "fixed": 129, "dynamic shared memory": 128}
    fixed = view.accesses[view.accesses["memory"] == by_name["fixed"].index]
    reads = fixed[fixed["phase"] == 1]
    assert len(reads) == 64
    assert np.array_equal(reads["offset"], 4 * (reads["thread"].astype(int) + 1))

    arrived = view.events[view.events["kind"] == ARRIVED]
    calls = [view.sites[site].function for site in arrived["site"]]
    assert {call: calls.count(call) for call in calls} == {
        "__syncthreads": 64,
        "__syncwarp": 64,
        "__shfl_xor_sync": 64,
    }
    assert len(view.events[view.events["kind"] == BLOCK_MET]) == 1
    met = view.events[view.events["kind"] == WARP_MET]
    assert sorted(zip(met["thread"].tolist(), met["mask"].tolist(), strict=True)) == [(0, 2**32 - 1), (32, 2**32 - 1)]
    barrier = next(site for site in view.sites if site.function == "__syncthreads")
    assert (barrier.file, barrier.line) == ("tests/microscope/recorder.cu", line_of("__syncthreads();"))
    steps = np.concatenate([view.accesses["step"], view.events["step"]])
    assert sorted(steps.tolist()) == list(range(len(steps)))


def test_atomics_are_performed_and_recorded() -> None:
    ints = torch.tensor([0, 100, 0, 0, 0, -1, 0, 0, 0], dtype=torch.int32)
    floats, longs = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    view = observe("atomics", ints, floats, longs)
    assert ints.tolist() == [32, 68, 5, -31, 31, 0, -1, 0, 32]
    assert floats.item() == 16
    assert longs.item() == 32 << 33
    assert view.findings == []
    assert {instruction.kind for instruction in view.instructions} == {"atomic"}
    assert len(view.accesses) == 11 * 32
    line = line_of("atomicAdd(&floats[0], 0.5f);")
    assert line in {instruction.source.line for instruction in view.instructions}


def test_accesses_of_many_bytes() -> None:
    source, output = torch.arange(6, dtype=torch.int32), torch.zeros(6, dtype=torch.int32)
    data = torch.arange(120, dtype=torch.uint8)
    view = observe("pieces", output, source, data, 40)
    assert torch.equal(output, source)
    assert data.tolist() == [7] * 40 + list(range(80, 120)) * 2
    assert view.findings == []
    seen = {
        (view.instructions[a["instruction"]].kind, int(a["memory"]), int(a["offset"]), int(a["size"]))
        for a in view.accesses
    }
    assert {("load", 1, 0, 12), ("load", 1, 12, 12), ("store", 0, 0, 12), ("store", 0, 12, 12)} <= seen
    assert {("store", 2, 0, 40), ("load", 2, 80, 40), ("store", 2, 40, 40)} <= seen


def test_several_launches_each_have_their_arguments() -> None:
    def launches() -> str:
        module = load()
        module.scatter_float(torch.zeros(90), torch.ones(90))
        module.number(torch.zeros(576, dtype=torch.int32))
        del module
        gc.collect()
        return "done"

    view = microscope.observe(launches)
    assert view.result == "done"
    assert [launch.function for launch in view.launches] == ["scatter_float", "number"]
    assert [(m.launch, m.name) for m in view.memories] == [(0, "output"), (0, "input"), (1, "argument 0")]
    assert [f.launch for f in view.figures] == [0, 0, 1]


def test_result_is_that_of_the_function() -> None:
    table, indices = torch.randn(50, 64), torch.randint(0, 50, (20,))
    view = microscope.observe(indexing, table, indices, undefined=("output",))
    assert isinstance(view.result, torch.Tensor)
    assert torch.equal(view.result, table[indices])
    assert torch.equal(indexing(table, indices), table[indices])  # and the plain kernel is back


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"undefined": "output"}, TypeError, "observe: undefined: expected names of arguments"),
        ({"undefined": (1,)}, TypeError, "observe: undefined: expected names of arguments"),
        ({"undefined": ("outptu",)}, ValueError, "expected names among output, input, got 'outptu'"),
        ({"blocks": -1}, ValueError, "expected numbers of at least 0 and below 2^63, got -1"),
        ({"blocks": "0"}, TypeError, "observe: blocks: expected an int or several"),
        ({"blocks": 1.5}, TypeError, "observe: blocks: expected an int or several"),
        ({"blocks": True}, TypeError, "observe: blocks: expected an int or several"),
        ({"blocks": [2**70]}, ValueError, f"expected numbers of at least 0 and below 2^63, got {2**70}"),
        ({"blocks": range(10**12)}, ValueError, "observe: blocks: expected at most 1048576 numbers"),
        ({"max_records": -1}, ValueError, "observe: max_records: expected an int of at least 0"),
        ({"max_records": 2**70}, ValueError, "observe: max_records: expected an int of at least 0 and below 2^31"),
        ({"undefined": ("\ud800",)}, ValueError, "expected names among output, input"),
    ],
)
def test_wrong_options_are_named(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        observe("scatter_float", torch.zeros(90), torch.ones(90), **arguments)


def no_launch() -> None: ...


def from_another_thread() -> None:
    thread = threading.Thread(target=lambda: load().number(torch.zeros(576, dtype=torch.int32)))
    thread.start()
    thread.join()


def nested() -> None:
    microscope.observe(no_launch)


def interrupted() -> None:
    load().number(torch.zeros(576, dtype=torch.int32))
    raise KeyboardInterrupt("enough")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (interrupted, KeyboardInterrupt, "enough"),
        (no_launch, RuntimeError, "no kernel was launched on the CPU"),
        (from_another_thread, RuntimeError, "no kernel was launched on the CPU from this thread"),
        (nested, RuntimeError, "another observation is running"),
        (lambda: os.environ["MINISGL_UNSET"], KeyError, "MINISGL_UNSET"),
        (lambda: load().refuse(torch.zeros(4)), ValueError, "refuse: output: expected"),
        (7, TypeError, "observe: function: expected something to call, got int"),
    ],
)
def test_what_cannot_be_observed(function: Callable[[], object], error: type[BaseException], message: str) -> None:
    with pytest.raises(error, match=message):
        microscope.observe(function)
    assert len(microscope.observe(indexing, torch.randn(4, 16), torch.arange(4)).launches) == 1  # the next one works


def test_kernel_that_was_loaded_before_is_refused() -> None:
    plain = load()
    with pytest.raises(RuntimeError, match="kernel was compiled without the microscope's calls"):
        microscope.observe(plain.scatter_float, torch.zeros(90), torch.ones(90))


@pytest.mark.gpu
def test_tensors_on_a_gpu_are_refused() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    with pytest.raises(ValueError, match="argument 0: expected a tensor on cpu, got one on cuda"):
        microscope.observe(indexing, torch.zeros(4, 16, device="cuda"), torch.arange(4))
