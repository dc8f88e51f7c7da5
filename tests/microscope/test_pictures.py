"""The microscope's pictures, of records of kernels whose behaviour is known."""

# ruff: noqa: RUF001 - pictures have a multiplication sign and dashes

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import synthetic  # type: ignore[import-not-found]  # pytest puts this folder on the path

from minisgl.microscope.pictures import banks, sectors, steps, timeline, words
from minisgl.microscope.pictures.schedule import schedule
from minisgl.microscope.pictures.shared_banks import BankUse
from minisgl.microscope.pictures.window import GLOBAL, SHARED, chosen_requests
from minisgl.microscope.records import Figure, Instruction, Memory, Source

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture):
    """All lines of text in a picture, in the order of drawing."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(picture.svg).iter(f"{SVG}text")]


def says(picture, *parts):
    """Tell if the text of a picture holds all parts."""
    text = " ".join(texts(picture))
    return [part for part in parts if part not in text] == []


def requests_of(view, words_, spaces):
    return chosen_requests("test", view, instruction=words_, spaces=spaces, launch=0, blocks=None, warps=None)[1]


# Sectors


@pytest.mark.parametrize("start", [0, 4, 28])
@pytest.mark.parametrize(("stride", "size"), [(4, 4), (8, 4), (128, 4), (16, 16), (0, 4), (2, 2), (36, 4), (20, 16)])
def test_sectors_says_what_moves(stride, size, start):
    touched = {start + lane * stride + byte for lane in range(32) for byte in range(size)}
    moved = {byte // 32 for byte in touched}
    picture = sectors(synthetic.strided(stride, start, size))
    sectors_ = f"{len(moved)} sector{'s' if len(moved) > 1 else ''} × 32 = {32 * len(moved):,} bytes"
    assert says(picture, f"Needs {len(touched)} bytes, moves {sectors_}: ")


@pytest.mark.parametrize(
    ("stride", "start", "verdict"),
    [
        (4, 0, "moves 4 sectors × 32 = 128 bytes: 100 % used"),
        (8, 0, "moves 8 sectors × 32 = 256 bytes: 50 % used (4 would do)"),
        (128, 0, "moves 32 sectors × 32 = 1,024 bytes: 12.5 % used (4 would do)"),
        (4, 4, "moves 5 sectors × 32 = 160 bytes: 80 % used (4 would do)"),
    ],
)
def test_sectors_of_known_patterns(stride, start, verdict):
    picture = sectors(synthetic.strided(stride, start))
    assert says(picture, "The lanes of a warp load 4 bytes from values", "demo.cu:10", verdict)


def test_sectors_draws_each_lane_below_its_bytes():
    """A lane's bar lies as far right as its address: lane i of a coalesced load is i / 32 along the four columns."""
    root = ElementTree.fromstring(sectors(synthetic.strided(4)).svg)
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("height") == "7"]
    assert len(bars) == 32
    x = np.array([float(bar.get("x", "")) for bar in bars])
    y = np.array([float(bar.get("y", "")) for bar in bars])
    np.testing.assert_allclose(np.diff(x), 76 * 4 / 32, atol=0.11)
    np.testing.assert_allclose(np.diff(y), 9)


def test_sectors_names_elements_and_gaps():
    picture = sectors(synthetic.strided(128))
    assert says(picture, "values[0]", "A gap between columns: memory that is not touched.")
    assert not says(sectors(synthetic.strided(4)), "A gap")


def test_requests_count_sectors_and_bytes():
    view = synthetic.random_life()
    requests = requests_of(view, "demo.cu:7", GLOBAL)
    rows = view.accesses[view.accesses["instruction"] == requests.rows["instruction"][0]]
    expected: dict[tuple[int, int], set[int]] = {}
    for row in rows.tolist():
        fields = dict(zip(rows.dtype.names, row, strict=True))
        touched = range(fields["address"], fields["address"] + fields["size"])
        expected.setdefault((fields["thread"] // 32, fields["execution"]), set()).update(touched)
    assert [(requests[i].warp, requests[i].execution) for i in range(len(requests))] == sorted(expected)
    needed = [expected[key] for key in sorted(expected)]
    assert requests.bytes_needed.tolist() == [len(touched) for touched in needed]
    assert requests.sectors.tolist() == [len({byte // 32 for byte in touched}) for touched in needed]


def test_sectors_says_what_it_leaves_out():
    view = synthetic.rows(num_blocks=256)
    picture = sectors(view, "load weights", requests=6)
    assert says(picture, "All 1,024 recorded warp requests, 1,018 of them not drawn above", "8 or 9 to a bar")
    assert texts(picture).count("16 × 32 bytes, 100 % used") == 5


def test_sectors_window():
    view = synthetic.rows(num_blocks=4)
    assert says(sectors(view, "store output", blocks=2, warps=3), "demo, block 2, warp 3, 1st time")
    several = sectors(view, "store output", blocks=[1, 2], warps=range(2), requests=range(1, 3))
    assert says(several, "block 1, warp 1, 1st time", "block 2: warp 0, 1st time", "All 4 recorded", "2 of them not")


def test_sectors_of_the_whole_launch():
    view = synthetic.strided(8)
    instruction, memory = view.instructions[0], view.memories[0]
    figure = Figure(0, instruction, memory, 3200, 12800, 100, 12800, sectors=800, ideal_sectors=400)
    picture = sectors(replace(view, figures=[figure]), figure)
    assert says(picture, "100 warp requests, needs 12,800 bytes, moves 25,600 bytes: 50 % used.")


@pytest.mark.parametrize("chosen", ["load weights", "weights", "demo.cu:10", "jit/demo.cu:10 load", 1, None])
def test_an_instruction_by_words_or_number(chosen):
    view = synthetic.rows(num_blocks=1)
    view = replace(view, accesses=view.accesses[view.accesses["instruction"] != 2]) if chosen is None else view
    assert says(sectors(view, chosen), "The lanes of a warp load 16 bytes from weights")


def test_an_instruction_by_itself_or_its_figure():
    view = synthetic.rows(num_blocks=1)
    figure = Figure(0, view.instructions[2], view.memories[2], 1, 1, 1, 1)
    assert sectors(view, view.instructions[2]) == sectors(view, figure) == sectors(view, "store")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"instruction": "load"}, ValueError, r"'load' fits several; .*\n  0: load indices: .*\n  1: load weights: "),
        ({"instruction": "atomic"}, ValueError, r"'atomic' fits none; .*\n  0: "),
        ({"instruction": 3}, ValueError, "expected 0 to 2, got 3"),
        ({"instruction": True}, TypeError, "expected an instruction, its number or words, got True"),
        ({"instruction": 1.5}, ValueError, "expected one of this record's, got 1.5"),
        ({"launch": 1}, ValueError, "launch: expected 0 to 0, got 1"),
        ({"blocks": 99}, ValueError, "no access to global memory was recorded in this window"),
        ({"warps": "a"}, TypeError, "warps: expected whole numbers"),
        ({"requests": 0}, ValueError, "requests: expected at least one of 0 to 3, got 0"),
        ({"requests": range(0, 4, 2)}, ValueError, "requests: expected a range without gaps"),
        ({"requests": 1.5}, TypeError, "requests: expected how many, or a range, got 1.5"),
    ],
)
def test_bad_choices(arguments, error, message):
    with pytest.raises(error, match=message):
        sectors(synthetic.rows(num_blocks=1), **arguments)


def test_banks_of_global_memory_are_refused():
    with pytest.raises(ValueError, match="banks: no access to shared memory was recorded"):
        banks(synthetic.rows(num_blocks=1))


# Banks


@pytest.mark.parametrize(("pitch", "passes", "verdict"), [(32, 32, "a 32-way conflict (1 would do)"), (33, 1, "no")])
def test_banks_of_a_transpose(pitch, passes, verdict):
    view = synthetic.transpose(pitch)
    requests = requests_of(view, "load tile", SHARED)
    assert {BankUse(requests[index]).passes for index in range(len(requests))} == {passes}
    picture = banks(view, "load tile")
    assert says(picture, f"{passes} pass", verdict, "56 more warp requests of 64 not shown.")
    assert ('stroke="#fff"' in picture.svg) == (passes > 1)  # the crosses


def vectors(size, offsets):
    """One warp that loads `size` bytes per lane at some offsets of a shared array."""
    recorder = synthetic.Recorder()
    recorder.shared("tile", 65536)
    recorder.run(lambda block, thread: iter([synthetic.load("tile", int(offsets[thread]), size)]))
    return recorder.view()


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", range(5))
def test_bank_passes(size, seed):
    """A group of lanes that moves 128 bytes takes as many passes as its busiest bank has words."""
    offsets = np.random.default_rng(seed).integers(0, 4096 // size, 32) * size
    use = BankUse(requests_of(vectors(size, offsets), None, SHARED)[0])
    expected = 0
    group = 128 // max(size, 4)
    for first in range(0, 32, group):
        wanted: dict[int, set[int]] = {}
        for offset in offsets[first : first + group].tolist():
            for word in {(offset + byte) // 4 for byte in range(size)}:
                wanted.setdefault(word % 32, set()).add(word)
        expected += max(len(found) for found in wanted.values())
    assert use.passes == expected


def test_banks_of_wide_and_shared_words():
    assert says(banks(vectors(16, np.arange(32) * 16)), "4 passes through the banks, no conflict", "Quarters")
    assert says(banks(vectors(8, np.arange(32) * 8)), "2 passes through the banks, no conflict", "Halves")
    assert says(banks(vectors(4, np.zeros(32))), "1 pass through the banks, no conflict")


# Schedule


@pytest.mark.parametrize("make", [synthetic.norm, synthetic.guarded, synthetic.random_life, synthetic.long_loop])
def test_schedule_keeps_every_threads_order(make):
    view = make()
    plan = schedule(view, 0, 0)
    done: dict[int, list[tuple[int, int]]] = {}
    for step in plan.steps:
        assert len({thread // 32 for thread in step.threads}) == 1
        for row in step.rows:
            done.setdefault(int(row["thread"]), []).append((step.column, int(row["step"])))
    recorded = view.accesses[view.accesses["block"] == 0]
    assert sum(map(len, done.values())) == len(recorded)
    for life in done.values():
        columns, numbers = zip(*life, strict=True)
        assert list(numbers) == sorted(numbers)
        assert len(set(columns)) == len(columns)
    taken = [(step.column, step.warp) for step in plan.steps]
    assert len(set(taken)) == len(taken)


def test_schedule_puts_lanes_and_warps_together():
    plan = schedule(synthetic.norm(), 0, 0)
    assert plan.num_columns == 2 + 5 + 1 + 1 + 8 + 2
    threads = [sum(len(step.threads) for step in plan.steps if step.column == column) for column in range(19)]
    assert threads == [256] * 7 + [8] + [256] * 11


@pytest.mark.parametrize("make", [synthetic.norm, synthetic.random_life, synthetic.long_loop])
def test_no_one_passes_a_barrier_early(make):
    plan = schedule(make(), 0, 0)
    barriers = {(step.key[1], step.column) for step in plan.steps if step.kind == "barrier"}
    assert len(barriers) == len({number for number, _ in barriers})
    for step in plan.steps:
        for number, column in barriers:
            if step.kind == "access":
                assert (step.column < column) == (int(step.rows["phase"].max()) <= number)


def test_a_barrier_that_never_met():
    plan = schedule(synthetic.divergent(), 0, 0)
    assert [(step.kind, len(step.threads), step.met) for step in plan.steps if step.column] == [
        ("barrier", 32, False),
        ("barrier", 16, False),
    ]


# Timeline


def test_timeline_puts_threads_together_that_do_the_same():
    picture = timeline(synthetic.norm())
    assert says(
        picture, "threads 0, 32, …", "8 alike", "threads 1–31, 33–63, …", "248 alike", "19 steps of 256 threads"
    )
    assert says(picture, "load 16 bytes from input", "store 4 bytes to partial (shared)", "__syncthreads", "demo.cu:15")
    letters = [text for text in texts(picture) if re.fullmatch("[A-Z]", text)]
    assert "".join(letters) == "AABBBBBCDEEEEEEEEFF" + "AABBBBBDEEEEEEEEFF" + "ABCDEF"


def test_timeline_of_an_early_exit():
    picture = timeline(synthetic.guarded())
    assert says(picture, "threads 0–99", "threads 100–127", "28 alike", "is done with memory")


def test_timeline_folds_loops():
    picture = timeline(synthetic.long_loop())
    assert says(picture, "×64", "321 steps of 64 threads")
    letters = [text for text in texts(picture) if re.fullmatch("[A-Z]", text)]
    assert "".join(letters) == "ABCDEF" + "ABCDEF"
    some = timeline(synthetic.long_loop(), steps=range(5, 15))
    assert says(some, "steps 6 to 15 of 321; the others are not shown")


def test_timeline_of_chosen_threads():
    view = synthetic.random_life()
    picture = timeline(view, threads=range(20), rows=3, steps=range(30))
    assert says(picture, "thread 0", "thread 2", "17 more rows (17 threads) not shown.", "steps 1 to 30 of ")
    assert not says(picture, "thread 3")
    assert says(timeline(synthetic.norm(), threads=5), "thread 5")


def test_timeline_of_a_failed_launch():
    view = synthetic.divergent()
    assert says(timeline(view), "never met", "The launch did not finish: divergent barrier: 48 threads")
    assert says(steps(view).frame(1), "48 never met: launch failed", "16 are done with memory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 64}, "threads: expected some of 0 to 63, got 64"),
        ({"threads": []}, "threads: expected some of 0 to 63"),
        ({"block": 1}, r"block: expected a recorded one \(0\), got 1: observe with blocks="),
        ({"rows": 0}, "rows: expected at least 1, got 0"),
        ({"steps": range(9000, 9001)}, "steps: expected at least one of 0 to "),
        ({"launch": -1}, "launch: expected 0 to 0, got -1"),
    ],
)
def test_bad_timelines(arguments, message):
    with pytest.raises(ValueError, match=message):
        timeline(synthetic.random_life(), **arguments)


def test_nothing_recorded():
    view = synthetic.strided(4)
    empty = replace(view, accesses=view.accesses[:0])
    for draw in (timeline, steps):
        with pytest.raises(ValueError, match="nothing was recorded of launch 0: observe it with blocks="):
            draw(empty)


# Steps


def test_steps_count_threads_by_state():
    slider = steps(synthetic.norm())
    assert len(slider) == 19
    assert says(slider.frame(0), "Step 1 of 19", "256 threads of 8 warps: load 16 bytes from input", "256 load")
    assert says(slider.frame(7), "8 threads of 8 warps: store 4 bytes to partial", "8 store", "248 wait")
    assert says(slider.frame(8), "256 threads of 8 warps: meet at __syncthreads", "256 meet their block")
    with pytest.raises(ValueError, match="frame: number: expected 0 to 18, got 19"):
        slider.frame(19)


def test_steps_mark_memory():
    """Half of the input is touched in each of the first two steps: of 86 cells, 43."""
    slider = steps(synthetic.norm())
    first, second = (
        re.findall(r'<path d="(M120[^"]*|M\d+[\d.]* \d+h[^"]*)" stroke="#1F83C4" stroke-width="16"', frame)
        for frame in slider.frames[:2]
    )
    pitch = 570 / 86
    assert first[0].startswith("M120 ")
    assert float(first[0].partition("h")[2]) == pytest.approx(43 * pitch, abs=2 * pitch)
    assert float(second[0][1:].partition(" ")[0]) == pytest.approx(120 + 43 * pitch, abs=2 * pitch)


def test_a_slider_without_and_with_javascript():
    slider = steps(synthetic.norm())
    html = slider._repr_html_()
    assert html.count('<g data-step="') == 19
    assert html.count('style="display:none"') == 18
    assert '<g data-step="0">' in html
    assert "<div hidden" in html  # the controls, until the script shows them
    assert "\n\n" not in html
    assert re.findall(r"https?://[^\"]*", html) == ["http://www.w3.org/2000/svg"]


def test_steps_window():
    view = synthetic.long_loop()
    assert len(steps(view)) == 48
    slider = steps(view, steps=range(100, 110))
    assert len(slider) == 10
    assert says(slider.frame(0), "Step 101 of 321", "Steps 101 to 110 of 321; the others are not shown.")


# All pictures


def pictures():
    """One picture of each kind, and of sizes as they occur."""
    yield sectors(synthetic.strided(128))
    yield sectors(synthetic.rows(num_blocks=256), "load weights", requests=100)
    yield banks(synthetic.transpose(32), "load tile")
    yield banks(vectors(16, np.arange(32) * 64))
    yield timeline(synthetic.norm(1024, 8192))
    yield timeline(synthetic.random_life())
    yield timeline(synthetic.divergent())
    slider = steps(synthetic.norm(1024, 8192))
    yield from (slider.frame(number) for number in (0, 7, len(slider) - 1))
    yield steps(synthetic.random_life()).frame(3)


def test_pictures_are_readable():
    for picture in pictures():
        root = ElementTree.fromstring(picture.svg)
        width = float(root.get("viewBox", "").split()[2])
        assert width == 700
        assert root.find(f"{SVG}title").text  # type: ignore[union-attr]
        assert len(picture.svg) < 150_000
        for text in root.iter(f"{SVG}text"):
            size, x, content = float(text.get("font-size", "")), float(text.get("x", "")), "".join(text.itertext())
            assert size >= 11
            taken = len(content) * size * 0.5
            start = x - {"middle": taken / 2, "end": taken}.get(text.get("text-anchor", ""), 0)
            assert start >= -1, content
            assert start + taken <= width + 1, content


def test_pictures_of_large_records_stay_small():
    scattered = synthetic.Recorder(1024)
    scattered.tensor("values", (1 << 20,))
    scattered.shared("tile", 1 << 16)
    place = np.random.default_rng(0).integers(0, 1 << 14, (1024, 2)) * 4
    scattered.run(
        lambda block, thread: iter(
            [synthetic.load("values", int(place[thread, 0])), synthetic.store("tile", int(place[thread, 1]))]
        )
    )
    assert len(sectors(scattered.view(), requests=1000).svg) < 150_000
    assert len(banks(scattered.view(), requests=1000).svg) < 150_000
    assert len(timeline(synthetic.random_life(), rows=64, steps=2000).svg) < 150_000
    for slider in (steps(synthetic.norm(1024, 32768)), steps(synthetic.random_life())):
        assert len(slider._repr_html_()) < 150_000


def test_the_same_record_gives_the_same_bytes():
    assert [picture.svg for picture in pictures()] == [picture.svg for picture in pictures()]
    assert steps(synthetic.norm())._repr_html_() == steps(synthetic.norm())._repr_html_()


def test_where_memory_lies_does_not_show():
    def coalesced(address):
        recorder = synthetic.Recorder()
        recorder.tensor("values", (64,), address=address)
        return recorder.run(lambda block, thread: iter([synthetic.load("values", thread * 4)])).view()

    assert sectors(coalesced(1 << 20)) == sectors(coalesced(1 << 46))
    assert steps(coalesced(1 << 20)) == steps(coalesced(1 << 46))


def test_view_methods_draw(tmp_path):
    view = synthetic.transpose(33)
    assert view.sectors("load input") == sectors(view, "load input")
    assert view.banks("load tile") == banks(view, "load tile")
    assert view.timeline(threads=3) == timeline(view, threads=3)
    assert view.steps(block=1) == steps(view, block=1)


def test_pictures_are_saved(tmp_path):
    picture, slider = timeline(synthetic.guarded()), steps(synthetic.guarded())
    picture.save(tmp_path / "a.svg")
    slider.save(str(tmp_path / "a.html"))
    assert (tmp_path / "a.svg").read_text("utf-8") == picture._repr_svg_() == picture.svg
    assert slider._repr_html_() in (tmp_path / "a.html").read_text("utf-8")
    assert picture.svg.partition(">")[2] in picture._repr_html_()
    with pytest.raises(ValueError, match=r"save: path: expected a name that ends in .svg, got 'a.png'"):
        picture.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"expected a name that ends in .html, got 'a.svg'"):
        slider.save(tmp_path / "a.svg")


def test_text_of_the_source_is_escaped():
    recorder = synthetic.Recorder(code={10: "if (a < b && c) x = y[i];"})
    recorder.tensor("values", (64,))
    view = recorder.run(lambda block, thread: iter([synthetic.load("values", thread * 4)])).view()
    for picture in (sectors(view), timeline(view), steps(view).frame(0)):
        assert any(text.startswith("if (a < b && c)") for text in texts(picture))


# Words


def tensor(shape, strides, itemsize=2):
    return Memory(0, 0, "global", "x", 0, shape, strides, f"float{8 * itemsize}", itemsize, 4096, 1 << 20)


@pytest.mark.parametrize(
    ("memory", "offset", "expected"),
    [
        (tensor((4, 8), (8, 1)), 2 * (3 * 8 + 5), "x[3, 5]"),
        (tensor((4, 8), (8, 1)), 2 * (3 * 8 + 5) + 1, "x[3, 5]"),
        (tensor((8, 4), (1, 8)), 2 * (3 * 8 + 5), "x[5, 3]"),
        (tensor((4, 8), (10, 1)), 2 * 9, "x + 18 bytes"),  # the gap between two rows
        (tensor((4, 8), (8, 1)), 2 * 32, "x + 64 bytes"),
        (tensor((4, 8), (8, 1)), -1, "x - 1 byte"),
        (tensor((1, 8), (8, 1)), 6, "x[0, 3]"),
        (tensor((4, 8), (0, 1)), 6, "x[0, 3]"),
        (tensor((), ()), 0, "x"),
        (Memory(0, 0, "shared", "tile", -1, (64,), (1,), "", 1, 4096, 64), 12, "tile + 12 bytes"),
    ],
)
def test_places(memory, offset, expected):
    assert words.place(memory, offset) == expected


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], "source line not known"),
        ([("a/x.cu", 3)], "x.cu:3"),
        ([("a/x.cu", 3), ("a/y.cuh", 5), ("a/x.cu", 9)], "x.cu:3, called from line 9"),
        ([("a/y.cuh", 5), ("a/x.cu", 9)], "y.cuh:5, called from x.cu:9"),
    ],
)
def test_source_lines(places, expected):
    assert words.source(Instruction(0, "load", 4, tuple(Source(*place) for place in places))) == expected


def test_counting_words():
    assert [words.ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 102, 113)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "113th",
    ]  # fmt: skip
    assert [words.plural(*pair) for pair in ((0, "pass"), (1, "pass"), (1200, "pass"), (2, "byte"))] == [
        "0 passes", "1 pass", "1,200 passes", "2 bytes",
    ]  # fmt: skip
    assert [words.percent(*pair) for pair in ((1, 8), (1, 1), (9999, 10000), (2, 3), (0, 0))] == [
        "12.5 %", "100 %", "99.9 %", "66.7 %", "0 %",
    ]  # fmt: skip
    assert words.spans([7, 2, 1, 0]) == [(0, 2), (7, 7)]
    assert words.listed([0, 1, 2, 5, 9]) == "0–2, 5, …"
