"""The picture of a radix tree: one box for each node, and in words what the node is."""

import json
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
import torch

from minisgl.kvcache import NodeInfo, RadixPrefixCache
from minisgl.kvcache.picture import draw_tree

SVG = "{http://www.w3.org/2000/svg}"
ROOT = NodeInfo(0, -1, [], 0, -1)


def insert(cache, *ids):
    return cache.insert_prefix(torch.tensor(ids), torch.arange(len(ids))).handle


def three_leaves():
    """The tree 1 2 -> (3 -> (4 5, 6)), 9, with locks on the path to 4 5."""
    cache = RadixPrefixCache("cpu")
    handle = insert(cache, 1, 2, 3, 4, 5)
    insert(cache, 1, 2, 3, 6)
    insert(cache, 1, 2, 9)
    insert(cache, 7)
    cache.lock_handle(handle)
    cache.lock_handle(handle)
    return cache


def elements(picture, tag):
    return list(ElementTree.fromstring(picture.svg).iter(SVG + tag))


def texts(picture):
    """All lines of text, in the order of drawing: behind the heading's three, those of each row from left to right."""
    return ["".join(text.itertext()) for text in elements(picture, "text")]


def written(picture):
    """The text of all boxes, which is in a font of fixed width."""
    return ["".join(text.itertext()) for text in elements(picture, "text") if "font-family" in text.attrib]


def boxes(picture):
    """(x, y, width, height, is it locked) of all nodes; the heading's two boxes are left out."""
    return [
        (*(float(box.get(name, "")) for name in ("x", "y", "width", "height")), "stroke-dasharray" not in box.attrib)
        for box in elements(picture, "rect")[2:]
    ]


def wide_tree(num_children, num_tokens=1):
    return [ROOT, *(NodeInfo(i, 0, [i] * num_tokens, 0, i - 1) for i in range(1, num_children + 1))]


def chain(length):
    return [ROOT, *(NodeInfo(i, i - 1, [i], 0, length - i) for i in range(1, length + 1))]


def test_each_node_is_a_row():
    assert texts(three_leaves().picture()) == [
        *("Radix tree of 6 nodes, 8 tokens", "3 evictable", "5 protected by locks", "root"),
        *("1 2", "2 tokens", "2 locks"),
        *("3", "1 token", "2 locks"),
        *("4 5", "2 tokens", "2 locks"),
        *("6", "1 token", "evicted 1st"),
        *("9", "1 token", "evicted 2nd"),
        *("7", "1 token", "evicted 3rd"),
    ]


def test_children_are_indented_below_their_parent():
    drawn = boxes(three_leaves().picture())
    left = [x for x, *_ in drawn]
    step = left[1] - left[0]
    assert step > 0
    assert left == [left[0] + depth * step for depth in (0, 1, 2, 2, 1, 0)]
    tops = [y for _, y, *_ in drawn]
    assert tops == sorted(tops)
    assert all(below - above > box[3] for above, below, box in zip(tops, tops[1:], drawn, strict=False))


def test_locked_nodes_differ_in_line_width_and_mark_too():
    picture = three_leaves().picture()
    assert [locked for *_, locked in boxes(picture)] == [True, True, True, False, False, False]
    assert len({box.get("stroke") for box in elements(picture, "rect")}) == 2
    assert len({box.get("stroke-width") for box in elements(picture, "rect")}) == 2
    padlocks = [path for path in elements(picture, "path") if path.get("fill") == "currentColor"]
    assert len(padlocks) == 3


def test_eviction_takes_the_nodes_in_the_order_of_the_picture():
    cache = three_leaves()
    for ids in ("6", "9", "7"):
        drawn = texts(cache.picture())
        assert drawn[drawn.index("evicted 1st") - 2] == ids
        cache.evict(1)
    assert "0 evictable" in texts(cache.picture())


def test_an_empty_tree():
    picture = RadixPrefixCache("cpu").picture()
    assert texts(picture) == ["Radix tree of 0 nodes, 0 tokens", "0 evictable", "0 protected by locks", "root"]
    assert boxes(picture) == []


@pytest.mark.parametrize(("rank", "text"), [(0, "1st"), (1, "2nd"), (2, "3rd"), (3, "4th"), (10, "11th"), (11, "12th")])
def test_ranks_are_counted_from_one(rank, text):
    assert texts(draw_tree([ROOT, NodeInfo(1, 0, [5], 0, rank)]))[-1] == f"evicted {text}"


def test_a_long_run_is_shortened_in_the_middle_between_two_ids():
    ids = list(range(1000, 2204))
    picture = draw_tree([ROOT, NodeInfo(1, 0, ids, 0, 0)])
    assert texts(picture)[-2] == "1,204 tokens"
    start, end = (list(map(int, part.split())) for part in written(picture)[0].split("…"))
    assert start == ids[: len(start)]
    assert end == ids[-len(end) :]
    assert len(start) > len(end) > 1


@pytest.mark.parametrize("length", [*range(1, 120), 10**6])
@pytest.mark.parametrize("decode", [None, lambda ids: "".join(chr(97 + i % 26) for i in ids)])
def test_every_run_keeps_its_ends_and_fits(length, decode):
    """Text is at most 7.4 wide a letter; boxes and columns stay inside the picture."""
    ids = list(range(10, 10 + length))
    picture = draw_tree([ROOT, NodeInfo(1, 0, ids, 0, 10**6)], decode)
    (text,) = written(picture)
    whole = decode(ids) if decode else " ".join(map(str, ids))
    if "…" in text:
        start, _, end = text.partition("…")
        assert start.strip()
        assert end.strip()
        assert whole.startswith(start.strip())
        assert whole.endswith(end.strip())
        assert len(text) < len(whole)
    else:
        assert text == whole
    ((x, _, width, _, _),) = boxes(picture)
    assert len(text) * 7.4 + 6 <= width
    assert x + width + 6.6 * len(f"{length:,} tokens" + "evicted 1,000,001st") < 700


def test_a_shortened_run_has_one_ellipsis():
    """Also where the first tokens, of a run whose middle is not decoded, are few letters."""
    picture = draw_tree([ROOT, NodeInfo(1, 0, list(range(500)), 0, 0)], lambda ids: "ab" if 0 in ids else "z" * 100)
    assert re.fullmatch("ab…z{20,}", written(picture)[0])


def test_decoded_text_is_escaped_and_whitespace_seen():
    letters = {1: "<b>&\"'", 2: "a\n", 3: "\tb\x00", 4: "\xa0c ", 5: "\ud800", 6: "é"}
    picture = draw_tree([ROOT, NodeInfo(1, 0, [1, 2, 3, 4, 5, 6], 0, 0)], lambda ids: "".join(letters[i] for i in ids))
    assert written(picture) == ["<b>&\"'a↵⇥b\N{REPLACEMENT CHARACTER} c \N{REPLACEMENT CHARACTER}é"]
    assert "<b>" not in picture.svg
    picture.svg.encode()


def test_decode_gets_the_ids_of_one_node_at_a_time():
    picture = three_leaves().picture(decode=str)
    assert [json.loads(text) for text in written(picture)] == [[1, 2], [3], [4, 5], [6], [9], [7]]


def test_wide_letters_get_the_room_of_two():
    def width(text):
        return boxes(draw_tree([ROOT, NodeInfo(1, 0, [1], 0, 0)], lambda ids: text))[0][2]

    assert width("日本語") == width("abcdef")


@pytest.mark.parametrize("max_nodes", [1, 7, 40])
def test_max_nodes_of_one_parent(max_nodes):
    picture = draw_tree(wide_tree(200, 50), max_nodes=max_nodes)
    assert len(boxes(picture)) == max_nodes
    hidden = 200 - max_nodes
    assert texts(picture)[-2:] == [f"and {hidden} more children", f"{hidden * 50:,} tokens"]
    assert texts(picture)[0] == "Radix tree of 200 nodes, 10,000 tokens"


def test_as_many_boxes_as_nodes_leave_nothing_out():
    assert not [text for text in texts(draw_tree(wide_tree(40))) if "more" in text]
    assert texts(draw_tree(wide_tree(41)))[-2:] == ["and 1 more child", "1 token"]


def test_what_is_left_out_adds_up():
    """A random tree: the boxes and the summaries together have all nodes and all tokens."""
    torch.manual_seed(0)
    cache = RadixPrefixCache("cpu")
    for length in torch.randint(1, 9, (300,)).tolist():
        insert(cache, *torch.randint(3, (length,)).tolist())
    nodes = cache.nodes()
    drawn = texts(cache.picture(max_nodes=25))
    more = [re.fullmatch(r"and (\d+) more child(?:ren)?(?:, (\d+) nodes? below)?", text) for text in drawn]
    left_out = sum(int(found[1]) + int(found[2] or 0) for found in more if found)
    assert 25 + left_out == len(nodes) - 1 > 200
    shown = [int(text.split()[0].replace(",", "")) for text in drawn if re.fullmatch(r"[\d,]+ tokens?", text)]
    assert sum(shown) == sum(len(node.tokens) for node in nodes)


def test_locked_nodes_and_large_ones_are_shown_first():
    nodes = wide_tree(10)
    nodes[4] = NodeInfo(4, 0, [4], 1, -1)
    nodes[8] = NodeInfo(8, 0, [8] * 5, 0, 7)
    assert written(draw_tree(nodes, max_nodes=1)) == ["4"]
    assert written(draw_tree(nodes, max_nodes=2)) == ["4", "8 8 8 8 8"]
    assert written(draw_tree(nodes, max_nodes=3)) == ["1", "4", "8 8 8 8 8"]


def test_steps_down_and_steps_aside_count_alike():
    """Three chains, 1 4 7, 2 5 8 and 3 6 9: one step to 1; two to 4 and 2; three to 7, 5 and 3; four to 8 and 6."""
    nodes = [ROOT, *(NodeInfo(i, max(i - 3, 0), [i], 0, 9 - i) for i in range(1, 10))]
    assert written(draw_tree(nodes, max_nodes=3)) == ["1", "4", "2"]
    assert written(draw_tree(nodes, max_nodes=6)) == ["1", "4", "7", "2", "5", "3"]
    assert written(draw_tree(nodes, max_nodes=8)) == ["1", "4", "7", "2", "5", "8", "3", "6"]


def test_a_deep_chain():
    picture = draw_tree(chain(100_000))
    assert written(picture) == [str(i) for i in range(1, 41)]
    assert texts(picture)[-2:] == ["and 1 more child, 99,959 nodes below", "99,960 tokens"]
    x, width = boxes(picture)[-1][0], boxes(picture)[-1][2]
    assert x + width < 500


def test_every_level_of_a_chain_is_indented():
    left = [x for x, *_ in boxes(draw_tree(chain(1_000)))]
    assert all(below - above >= 4 for above, below in pairwise(left))


def test_the_picture_is_as_high_as_its_rows():
    picture = three_leaves().picture()
    width, height = map(float, ElementTree.fromstring(picture.svg).get("viewBox", "").split()[2:])
    assert all(x + w <= width and y + h <= height for x, y, w, h, _ in boxes(picture))


def test_screen_readers_get_a_title_and_the_sizes():
    picture = three_leaves().picture()
    root = ElementTree.fromstring(picture.svg)
    assert root.get("role") == "img"
    assert root[0].tag == f"{SVG}title"
    assert root[0].text == "Radix tree of 6 nodes, 8 tokens"
    assert root[1].tag == f"{SVG}desc"
    assert (root[1].text or "").startswith("3 evictable, 5 protected by locks.")


def test_the_same_tree_is_the_same_bytes():
    assert three_leaves().picture() == three_leaves().picture()


def test_a_notebook_shows_it():
    picture = three_leaves().picture()
    assert picture._repr_svg_() == picture.svg
    page = ElementTree.fromstring(picture._repr_html_())
    assert page.tag == "div"
    assert page[0].tag == f"{SVG}svg"
    assert "min-width" in (page[0].get("style") or "")


def test_it_is_saved_as_a_file(tmp_path):
    picture = three_leaves().picture(decode=lambda ids: "é" * len(ids))
    picture.save(tmp_path / "tree.svg")
    assert (tmp_path / "tree.svg").read_text(encoding="utf-8") == picture.svg


def test_spaces_are_kept():
    """The tokens of code have many, and a browser would show them as one."""
    picture = draw_tree([ROOT, NodeInfo(1, 0, [1], 0, 0)], lambda ids: "  if  x")
    assert written(picture) == ["  if  x"]
    assert [text.get("style") for text in elements(picture, "text")[4:]] == ["white-space:pre", None, None]


@pytest.mark.parametrize("max_nodes", [0, -3])
def test_max_nodes_is_at_least_1(max_nodes):
    with pytest.raises(ValueError, match=f"picture: max_nodes: expected at least 1, got {max_nodes}"):
        RadixPrefixCache("cpu").picture(max_nodes=max_nodes)
