# Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:d4350dd42082

"""Draw a radix tree as SVG: an outline with a box for each node, the same bytes on every run."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, nsmallest
from typing import TYPE_CHECKING

from minisgl.svg import BLUE, INK, WIDTH, Drawing, Picture, number

if TYPE_CHECKING:
    from minisgl.kvcache.radix_cache import NodeInfo

_ROW, _BOX = 30, 22  # heights
_INDENT = 26  # of one level
_LEAST_ROOM = 290  # for the words of the deepest row: a summary needs most
_LETTER, _MONO_LETTER = 6.6, 7.4  # widths of letters: an estimate, somewhat wider than most are
_LOCKED = BLUE  # colour-blind readers see blue; what is locked has thicker lines and a mark besides
_ELLIPSIS = "…"
_MOST_TOKENS = 48  # that are written at either end of a run


@dataclass
class _Row:
    """One line of the outline: a node, or what is left out below the same parent.

    Args:
        node: the node; None for a summary.
        depth: 0 for the root.
        parent: place of the parent's row.
        pieces: what is written in the box, or the summary.
        num_tokens: of the node, or of all that is left out.
    """

    node: "NodeInfo | None"
    depth: int
    parent: int
    pieces: Sequence[str]
    num_tokens: int

    @property
    def locked(self) -> bool:
        return self.node is not None and self.node.lock_count > 0

    @property
    def letter(self) -> float:
        return _MONO_LETTER if self.node else _LETTER

    @property
    def state(self) -> str:
        if self.node is None or self.depth == 0:
            return ""
        return _plural(self.node.lock_count, "lock") if self.locked else f"evicted {_ordinal(self.node.lru_rank + 1)}"


class _Tree:
    """The nodes of a tree by their place in a list, in which parents are ahead of their children."""

    def __init__(self, nodes: "list[NodeInfo]") -> None:
        self.nodes = nodes
        places = {node.node_id: place for place, node in enumerate(nodes)}
        self.children: dict[int, list[int]] = {}
        for place, node in enumerate(nodes[1:], 1):
            self.children.setdefault(places[node.parent_id], []).append(place)
        self.num_nodes = [1] * len(nodes)  # of the node and all below it
        self.num_tokens = [len(node.tokens) for node in nodes]
        for place in range(len(nodes) - 1, 0, -1):
            parent = places[nodes[place].parent_id]
            self.num_nodes[parent] += self.num_nodes[place]
            self.num_tokens[parent] += self.num_tokens[place]

    def choose(self, most: int) -> set[int]:
        """Choose `most` nodes, and the root: those near it, where a step is one down or one on among siblings.

        First among siblings are those locked, then those with most tokens in them and below.
        """
        chosen: set[int] = set()
        found = [(0, 0)]  # steps from the root, place
        while found and len(chosen) <= most:
            steps, place = heappop(found)
            chosen.add(place)
            for rank, child in enumerate(nsmallest(most, self.children.get(place, []), key=self._importance), 1):
                heappush(found, (steps + rank, child))
        return chosen

    def _importance(self, place: int) -> tuple[bool, int]:
        return self.nodes[place].lock_count == 0, -self.num_tokens[place]

    def rows(self, most: int, write: Callable[[list[int]], Sequence[str]]) -> list[_Row]:
        """List the chosen nodes, each ahead of its children, and after these what is left out."""
        chosen = self.choose(most)
        rows: list[_Row] = []
        stack: list[tuple[int, int, int, list[int]]] = [(0, 0, 0, [])]  # place, depth, parent's row, left out
        while stack:
            place, depth, parent, hidden = stack.pop()
            if hidden:
                rows.append(self._summary(hidden, depth, parent))
                continue
            node = self.nodes[place]
            row = len(rows)
            rows.append(_Row(node, depth, parent, write(node.tokens) if place else "root", len(node.tokens)))
            children = self.children.get(place, [])
            if hidden := [child for child in children if child not in chosen]:
                stack.append((0, depth + 1, row, hidden))
            stack += [(child, depth + 1, row, []) for child in reversed(children) if child in chosen]
        return rows

    def _summary(self, hidden: list[int], depth: int, parent: int) -> _Row:
        text = f"and {len(hidden):,} more {'child' if len(hidden) == 1 else 'children'}"
        if below := sum(self.num_nodes[place] for place in hidden) - len(hidden):
            text += f", {_plural(below, 'node')} below"
        return _Row(None, depth, parent, text, sum(self.num_tokens[place] for place in hidden))


class _Outline:
    """Where the rows of a tree are drawn."""

    def __init__(self, rows: list[_Row], top: float) -> None:
        self.rows, self.top = rows, top
        self.counts = [_plural(row.num_tokens, "token") if row.depth else "" for row in rows]
        count_width = max(map(len, self.counts)) * _LETTER
        state_width = max(len(row.state) for row in rows) * _LETTER + 20
        most = WIDTH - count_width - state_width - 28
        self.indent = min(_INDENT, (most - _LEAST_ROOM) / max(1, *(row.depth for row in rows)))
        self.texts = [_shortened(row.pieces, int((most - self.left(row) - 12) / row.letter)) for row in rows]
        self.widths = [max(_cells(text) * row.letter, 8) + 12 for row, text in zip(rows, self.texts, strict=True)]
        right = max(self.left(row) + width for row, width in zip(rows, self.widths, strict=True))
        self.count_right = min(right, most) + 12 + count_width
        self.state_left = self.count_right + 16

    def left(self, row: _Row) -> float:
        return row.depth * self.indent

    def middle(self, place: int) -> float:
        return self.top + (place + 0.5) * _ROW

    def draw(self, drawing: Drawing) -> None:
        """Draw the lines first, those of locked paths above the others, then the boxes."""
        children: dict[tuple[bool, int], list[int]] = {}
        for place, row in enumerate(self.rows[1:], 1):
            children.setdefault((row.locked, row.parent), []).append(place)
        for locked, parent in sorted(children):
            self._branch(drawing, locked, parent, children[locked, parent])
        for place in range(len(self.rows)):
            self._row(drawing, place)

    def _branch(self, drawing: Drawing, locked: bool, parent: int, children: list[int]) -> None:
        x = self.left(self.rows[parent]) + self.indent / 2
        path = f"M{number(x)} {number(self.middle(parent) + _BOX / 2)}V{number(self.middle(children[-1]))}"
        for child in children:
            path += f"M{number(x)} {number(self.middle(child))}H{number(self.left(self.rows[child]))}"
        drawing.add("path", d=path, fill="none", **_line(locked))

    def _row(self, drawing: Drawing, place: int) -> None:
        row, middle, count = self.rows[place], self.middle(place), self.counts[place]
        left, right = self.left(row), self.left(row) + self.widths[place]
        is_box = row.depth > 0 and row.node is not None
        if is_box:
            _box(drawing, left, middle, right - left, row.locked)
        drawing.text(left + 6, middle + 4, self.texts[place], mono=is_box)
        if row.depth:
            leader = f"M{number(right + 8)} {number(middle)}H{number(self.count_right - len(count) * _LETTER - 4)}"
            drawing.add("path", d=leader, stroke=INK, stroke_opacity=0.2)
            drawing.text(self.count_right, middle + 4, count, anchor="end")
        if row.locked:
            _padlock(drawing, self.state_left, middle)
        if row.state:
            drawing.text(self.state_left + 16, middle + 4, row.state, bold=row.locked)


def draw_tree(
    nodes: "list[NodeInfo]", decode: Callable[[list[int]], str] | None = None, max_nodes: int = 40
) -> Picture:
    """Draw the tree that `RadixPrefixCache.nodes` lists; see `RadixPrefixCache.picture`."""
    if max_nodes < 1:
        raise ValueError(f"picture: max_nodes: expected at least 1, got {max_nodes}")
    evictable = sum(len(node.tokens) for node in nodes if not node.lock_count)
    protected = sum(len(node.tokens) for node in nodes) - evictable
    head = f"Radix tree of {_plural(len(nodes) - 1, 'node')}, {_plural(evictable + protected, 'token')}"
    sizes = f"{evictable:,} evictable", f"{protected:,} protected by locks"
    outline = _Outline(_Tree(nodes).rows(max_nodes, lambda tokens: _pieces(tokens, decode)), top=50)
    drawing = Drawing(head, f"{', '.join(sizes)}. An outline: a node's children are below it, indented.")
    drawing.text(0, 16, head, bold=True, size=15)
    for x, size, locked in zip((2, 182), sizes, (False, True), strict=True):
        _box(drawing, x, 36, 22, locked)
        drawing.text(x + 30, 40, size)
    outline.draw(drawing)
    drawing.y = outline.top + len(outline.rows) * _ROW + 2
    return drawing.picture()


def _pieces(tokens: list[int], decode: Callable[[list[int]], str] | None) -> list[str]:
    """Write tokens in pieces that are not cut: ids or letters; of a long run those at its ends."""
    parts = [tokens] if len(tokens) <= 2 * _MOST_TOKENS else [tokens[:_MOST_TOKENS], tokens[-_MOST_TOKENS:]]
    if decode is None:
        written = [[f" {token}" for token in part] for part in parts]
        written[0][0] = written[0][0].lstrip()
    else:
        written = [[_visible(letter) for letter in decode(part)] for part in parts]
    return written[0] if len(parts) == 1 else [*written[0], _ELLIPSIS, *written[1]]


def _visible(letter: str) -> str:
    """Return a letter, or what stands for one that cannot be seen, or cannot be in XML."""
    if letter.isprintable():
        return letter
    return {"\n": "↵", "\t": "⇥"}.get(letter, " " if letter.isspace() else "\N{REPLACEMENT CHARACTER}")


def _shortened(pieces: Sequence[str], room: int) -> str:
    """Join pieces, with an ellipsis for those in the middle that would need more than `room` cells: a third is end."""
    if sum(map(_cells, pieces)) <= room:
        return "".join(pieces)
    room -= len(_ELLIPSIS) + 1
    end = _first(reversed(pieces), room // 3)
    start = _first(pieces, room - sum(map(_cells, end)))
    return "".join([*start, " " if pieces[-1].startswith(" ") else "", _ELLIPSIS, *reversed(end)])


def _first(pieces: Iterable[str], room: int) -> list[str]:
    """Return the first pieces, as many as have room; never the ellipsis."""
    first: list[str] = []
    for piece in pieces:
        room -= _cells(piece)
        if room < 0 or piece == _ELLIPSIS:
            break
        first.append(piece)
    return first


def _cells(text: str) -> int:
    """Return how many cells of a terminal a text fills: two for a wide letter."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _ordinal(rank: int) -> str:
    """Return 1st, 2nd, 3rd, 4th ... 11th ... 21st."""
    suffix = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank:,}{suffix}"


def _line(locked: bool) -> dict[str, str | float]:
    """Return how lines and borders look: solid and thick where locked, dashed and thin where `evict` may take it."""
    if locked:
        return {"stroke": _LOCKED, "stroke_width": 2.5}
    return {"stroke": INK, "stroke_opacity": 0.7, "stroke_dasharray": "4 3"}


def _box(drawing: Drawing, x: float, middle: float, width: float, locked: bool) -> None:
    fill: dict[str, str | float] = {"fill": _LOCKED if locked else INK, "fill_opacity": 0.16 if locked else 0.05}
    drawing.add("rect", x=x, y=middle - _BOX / 2, width=width, height=_BOX, rx=4, **fill, **_line(locked))


def _padlock(drawing: Drawing, x: float, middle: float) -> None:
    shackle = f"M{number(x + 2)} {number(middle)}v-3a3 3 0 0 1 6 0v3"
    drawing.add("path", d=shackle, fill="none", stroke=INK, stroke_width=1.5)
    drawing.add("path", d=f"M{number(x)} {number(middle - 1)}h10v7h-10z", fill=INK)
