# Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:b021295851ba

"""Draw a radix tree as SVG: an outline with a box for each node, the same bytes on every run.

It has its own few lines of SVG, because the microscope's pictures need NumPy and a cache does not.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, nsmallest
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minisgl.kvcache.radix_cache import NodeInfo

_WIDTH = 700
_ROW, _BOX = 30, 22  # heights
_INDENT = 26  # of one level
_LEAST_ROOM = 290  # for the words of the deepest row: a summary needs most
_SIZE, _LETTER, _MONO_LETTER = 12, 6.6, 7.4  # of text; a letter's width is an estimate, somewhat wider than most are
_INK = "currentColor"  # the colour of the text around the picture
_LOCKED = "#1F83C4"  # colour-blind readers see blue; what is locked has thicker lines and a mark besides
_STYLE = "svg:root{color:#222}@media (prefers-color-scheme:dark){svg:root{color:#ddd}}"
_ELLIPSIS = "…"
_MOST_TOKENS = 48  # that are written at either end of a run


@dataclass(frozen=True)
class TreePicture:
    """A finished picture. A notebook shows it as the last value of a cell.

    Args:
        svg: the text of an SVG file.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        """Inside the page, where it takes its text colour. On a phone it scrolls: shrunk, it could not be read."""
        return f'<div style="overflow-x:auto">{self.svg.replace("max-width", "min-width:640px;max-width", 1)}</div>'


@dataclass
class _Row:
    """One line of the outline: a node, or what is left out below the same parent.

    Args:
        node: the node; None for a summary.
        depth: 0 for the root.
        parent: number of the parent's row.
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
        most = _WIDTH - count_width - state_width - 28
        self.indent = min(_INDENT, (most - _LEAST_ROOM) / max(1, *(row.depth for row in rows)))
        self.texts = [_shortened(row.pieces, int((most - self.left(row) - 12) / row.letter)) for row in rows]
        self.widths = [max(_cells(text) * row.letter, 8) + 12 for row, text in zip(rows, self.texts, strict=True)]
        right = max(self.left(row) + width for row, width in zip(rows, self.widths, strict=True))
        self.count_right = min(right, most) + 12 + count_width
        self.state_left = self.count_right + 16

    def left(self, row: _Row) -> float:
        return row.depth * self.indent

    def middle(self, number: int) -> float:
        return self.top + (number + 0.5) * _ROW

    def draw(self) -> str:
        """Draw the lines first, those of locked paths above the others, then the boxes."""
        children: dict[tuple[bool, int], list[int]] = {}
        for number, row in enumerate(self.rows[1:], 1):
            children.setdefault((row.locked, row.parent), []).append(number)
        branches = [self._branch(*key, children[key]) for key in sorted(children)]
        return "".join([*branches, *map(self._row, range(len(self.rows)))])

    def _branch(self, locked: bool, parent: int, children: list[int]) -> str:
        x = self.left(self.rows[parent]) + self.indent / 2
        path = f"M{_n(x)} {_n(self.middle(parent) + _BOX / 2)}V{_n(self.middle(children[-1]))}"
        for child in children:
            path += f"M{_n(x)} {_n(self.middle(child))}H{_n(self.left(self.rows[child]))}"
        return _element("path", d=path, fill="none", **_line(locked))

    def _row(self, number: int) -> str:
        row, middle = self.rows[number], self.middle(number)
        left, right = self.left(row), self.left(row) + self.widths[number]
        is_box = row.depth > 0 and row.node is not None
        drawn = _box(left, middle, right - left, row.locked) if is_box else ""
        drawn += _text(left + 6, middle + 4, self.texts[number], mono=is_box)
        if row.depth:
            leader = f"M{_n(right + 8)} {_n(middle)}H{_n(self.count_right - len(self.counts[number]) * _LETTER - 4)}"
            drawn += _element("path", d=leader, stroke=_INK, stroke_opacity=0.2)
        drawn += _text(self.count_right, middle + 4, self.counts[number], anchor="end")
        drawn += _padlock(self.state_left, middle) if row.locked else ""
        return drawn + _text(self.state_left + 16, middle + 4, row.state, bold=row.locked)


def draw_tree(
    nodes: "list[NodeInfo]", decode: Callable[[list[int]], str] | None = None, max_nodes: int = 40
) -> TreePicture:
    """Draw the tree that `RadixPrefixCache.nodes` lists; see `RadixPrefixCache.picture`."""
    if max_nodes < 1:
        raise ValueError(f"picture: max_nodes: expected at least 1, got {max_nodes}")
    evictable = sum(len(node.tokens) for node in nodes if not node.lock_count)
    protected = sum(len(node.tokens) for node in nodes) - evictable
    head = f"Radix tree of {_plural(len(nodes) - 1, 'node')}, {_plural(evictable + protected, 'token')}"
    sizes = f"{evictable:,} evictable", f"{protected:,} protected by locks"
    outline = _Outline(_Tree(nodes).rows(max_nodes, lambda tokens: _pieces(tokens, decode)), top=50)
    height = outline.top + len(outline.rows) * _ROW + 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_n(height)}" width="100%" role="img" '
        f'font-family="system-ui,sans-serif" font-size="{_SIZE}" style="max-width:800px">',
        _element("title", head),
        _element("desc", f"{', '.join(sizes)}. An outline: a node's children are below it, indented."),
        _element("style", _STYLE),
        _text(0, 16, head, bold=True, size=15),
        _box(2, 36, 22, locked=False),
        _text(32, 40, sizes[0]),
        _box(182, 36, 22, locked=True),
        _text(212, 40, sizes[1]),
        outline.draw(),
    ]
    return TreePicture("".join(parts) + "</svg>")


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


def _ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th ... 11th ... 21st."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{suffix}"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _element(tag: str, content: str = "", /, **attributes: str | float) -> str:
    """Write an element; `stroke_width=2` is written `stroke-width="2"`, and the content is escaped."""
    written = "".join(
        f' {name.replace("_", "-")}="{value if isinstance(value, str) else f"{value:g}"}"'
        for name, value in attributes.items()
    )
    return f"<{tag}{written}>{escape(content, quote=False)}</{tag}>" if content else f"<{tag}{written}/>"


def _line(locked: bool) -> dict[str, str | float]:
    """Return how lines and borders look: solid and thick where locked, dashed and thin where `evict` may take it."""
    if locked:
        return {"stroke": _LOCKED, "stroke_width": 2.5}
    return {"stroke": _INK, "stroke_opacity": 0.7, "stroke_dasharray": "4 3"}


def _box(x: float, middle: float, width: float, locked: bool) -> str:
    fill: dict[str, str | float] = {"fill": _LOCKED if locked else _INK, "fill_opacity": 0.16 if locked else 0.05}
    y = _n(middle - _BOX / 2)
    return _element("rect", x=_n(x), y=y, width=_n(width), height=_BOX, rx=4, **fill, **_line(locked))


def _text(
    x: float, y: float, text: str, *, mono: bool = False, bold: bool = False, anchor: str = "", size: int = 0
) -> str:
    attributes: dict[str, str | float] = {"x": _n(x), "y": _n(y), "fill": _INK}
    if mono:
        attributes |= {"font_family": "ui-monospace,monospace", "style": "white-space:pre"}
    if bold:
        attributes["font_weight"] = 600
    if anchor:
        attributes["text_anchor"] = anchor
    if size:
        attributes["font_size"] = size
    return _element("text", text, **attributes) if text else ""


def _padlock(x: float, middle: float) -> str:
    shackle = f"M{_n(x + 2)} {_n(middle)}v-3a3 3 0 0 1 6 0v3"
    body = f"M{_n(x)} {_n(middle - 1)}h10v7h-10z"
    return _element("path", d=shackle, fill="none", stroke=_INK, stroke_width=1.5) + _element("path", d=body, fill=_INK)
