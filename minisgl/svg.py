# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:1b8d1a2ce9e1

"""Draw SVG by hand: pictures that read on light and dark pages, the same bytes on every run."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH = 700  # of every picture, in the unit of its coordinates; text is at least 11 of them high

# Okabe and Ito's palette, which colour-blind readers can tell apart, its blue lighter for dark pages. A colour never
# stands alone.
BLUE, ORANGE, GREEN, PINK, RED = "#1F83C4", "#E69F00", "#009E73", "#CC79A7", "#D55E00"
INK = "currentColor"  # the colour of the text around the picture

# A picture inside a page takes the page's text colour. As a file of its own (`svg:root`) it follows the reader's theme.
_STYLE = "svg:root{color:#222}@media (prefers-color-scheme:dark){svg:root{color:#ddd}}"
_SANS = "system-ui,sans-serif"
_MONO = "ui-monospace,monospace"


@dataclass(frozen=True)
class Picture:
    """A finished picture. A notebook shows it as the last value of a cell.

    Args:
        svg: the text of an SVG file.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        """Inside the page, where it takes its text colour; JupyterLab shows SVG as an image of its own, all black."""
        return f'<div style="overflow-x:auto">{wide_enough(self.svg)}</div>'

    def save(self, path: str | Path) -> None:
        """Write the picture into an `.svg` file. Raises ValueError for any other suffix."""
        write(path, ".svg", self.svg)


def wide_enough(svg: str) -> str:
    """Let a picture scroll on a phone: shrunk to the screen, its labels could not be read."""
    return svg.replace('style="', 'style="min-width:640px;', 1)


def write(path: str | Path, suffix: str, text: str) -> None:
    """Write a picture's file, the same bytes on every system; ValueError unless its name ends in `suffix`."""
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"save: path: expected a name that ends in {suffix}, got {path.name!r}")
    path.write_text(text, encoding="utf-8", newline="\n")


class Drawing:
    """A picture in the making. `y` is where the next thing below goes; whoever draws moves it on.

    Args:
        title: what the picture shows.
        description: more about it, for screen readers.
    """

    def __init__(self, title: str, description: str = "") -> None:
        self.title, self.description = title, description
        self.y = 0.0
        self._parts: list[str] = []

    def add(self, tag: str, content: str = "", /, **attributes: str | float) -> None:
        """Add an element; `stroke_width=2` is written `stroke-width="2"`, and `content` as it is."""
        written = "".join(f' {name.replace("_", "-")}="{_value(value)}"' for name, value in attributes.items())
        self._parts.append(f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>")

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 12,
        mono: bool = False,
        bold: bool = False,
        faint: bool = False,
        anchor: str = "start",
        fill: str = INK,
        width: float = 0,
    ) -> None:
        """Write a line whose baseline is at `y`, cut with an ellipsis if it would grow wider than `width`.

        Mono is for code and the like: all its spaces are kept.
        """
        attributes: dict[str, str | float] = {"x": x, "y": y, "font_size": size, "fill": fill}
        if mono:
            attributes |= {"font_family": _MONO, "style": "white-space:pre"}
        if bold:
            attributes["font_weight"] = 600
        if faint:
            attributes["fill_opacity"] = 0.75
        if anchor != "start":
            attributes["text_anchor"] = anchor
        self.add("text", escape(fitted(text, width, size, mono) if width else text, quote=False), **attributes)

    def lines(self, x: float, text: str, *, width: float, size: float = 12, faint: bool = True) -> None:
        """Write a paragraph from `y` on, wrapped to `width`, and move `y` below it."""
        line = ""
        for word in text.split():
            if line and text_width(f"{line} {word}", size) > width:
                self.y += size + 4
                self.text(x, self.y, line, size=size, faint=faint)
                line = word
            else:
                line = f"{line} {word}".strip()
        self.y += size + 4
        self.text(x, self.y, line, size=size, faint=faint)

    def hatch(self, lefts: Iterable[float], y: float, width: float, height: float, gap: float = 5) -> None:
        """Fill rectangles of one size side by side with thin diagonal lines: there, but not used."""
        path = ""
        for x in lefts:
            start = gap - height
            while start < width:
                left, right = max(start, 0.0), min(start + height, width)
                if right > left:
                    path += f"M{number(x + left)} {number(y + height - left + start)}"
                    path += f"l{number(right - left)} {number(left - right)}"
                start += gap
        if path:
            self.add("path", d=path, stroke=INK, stroke_opacity=0.35)

    def bars(self, bars: Iterable[tuple[float, float]], y: float, height: float, fill: str) -> None:
        """Fill rectangles of one height side by side, given as (x, width) from left to right."""
        joined: list[list[float]] = []
        for x, width in bars:
            if joined and abs(joined[-1][0] + joined[-1][1] - x) < 0.01:
                joined[-1][1] += width
            else:
                joined.append([x, width])
        path = "".join(f"M{number(x)} {number(y)}h{number(w)}v{number(height)}h{number(-w)}z" for x, w in joined)
        self.add("path", d=path, fill=fill)

    def svg(self) -> str:
        """Return the picture so far, as high as `y`."""
        size = f"{WIDTH} {_value(self.y)}"
        words = f"<title>{escape(self.title, quote=False)}</title>"
        if self.description:
            words += f"<desc>{escape(self.description, quote=False)}</desc>"
        # As wide as its place, up to 800 pixels: an image without a height of its own keeps the view box's proportions.
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="100%" role="img" '
            f'font-family="{_SANS}" style="max-width:800px">{words}<style>{_STYLE}</style>{"".join(self._parts)}</svg>'
        )

    def picture(self) -> Picture:
        """Return the finished picture."""
        return Picture(self.svg())

    def take(self) -> str:
        """Return what was drawn since the last call and forget it: the frames of a slider are drawn one by one."""
        parts, self._parts = self._parts, []
        return "".join(parts)


def text_width(text: str, size: float = 12, mono: bool = False) -> float:
    """Estimate how wide a text is: nobody knows a reader's fonts, so somewhat wider than most are."""
    return len(text) * size * (0.62 if mono else 0.58)


def fitted(text: str, width: float, size: float = 12, mono: bool = False) -> str:
    """Cut a text with an ellipsis so that it fits into `width`."""
    letters = int(width / text_width("x", size, mono))
    return text if len(text) <= letters else text[: max(letters - 1, 0)].rstrip() + "…"


def number(value: float) -> str:
    """Write a coordinate: a tenth of a pixel is more than enough."""
    return f"{value:.1f}".removesuffix(".0")


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else number(value) if abs(value) >= 1 else f"{value:g}"
