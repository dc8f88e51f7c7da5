# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:a8c8fe5a0281

"""A picture of several frames with a slider, for a notebook or a page."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from minisgl.svg import Picture, wide_enough, write

# Every slider that has none yet gets its handlers: a notebook runs the script once per output.
_SCRIPT = """
for (const box of document.querySelectorAll(".minisgl-steps:not([data-ready])")) {
  box.dataset.ready = "1";
  const frames = box.querySelectorAll("g[data-step]"), slider = box.querySelector("input");
  const [back, play, on] = box.querySelectorAll("button");
  let timer = 0;
  const show = (step) => {
    slider.value = step;
    frames.forEach((frame, index) => { frame.style.display = index === +slider.value ? "" : "none"; });
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "play"; };
  const tick = () => { if (+slider.value + 1 < frames.length) show(+slider.value + 1); else stop(); };
  slider.oninput = () => { stop(); show(+slider.value); };
  back.onclick = () => { stop(); show(+slider.value - 1); };
  on.onclick = () => { stop(); show(+slider.value + 1); };
  play.onclick = () => {
    if (timer) return stop();
    if (+slider.value + 1 >= frames.length) show(0);
    play.textContent = "stop";
    timer = setInterval(tick, 700);
  };
  box.querySelector("[hidden]").hidden = false;
}
"""
_CONTROLS = """\
<div hidden style="max-width:800px;margin-bottom:.8rem"><span style="display:flex;gap:.5rem;align-items:center">
<button type="button">back</button><button type="button">play</button><button type="button">next</button>
<input type="range" aria-label="Step" min="0" max="{last}" value="0" style="flex:1">
</span></div>"""
_BUTTON = "font:inherit;color:inherit;background:none;border:1px solid;border-radius:4px;padding:0 .6em;cursor:pointer"


@dataclass(frozen=True)
class Slider:
    """A finished picture of several frames. A notebook shows it as the last value of a cell.

    Args:
        head: start of the SVG file.
        frames: SVG of each frame.
        tail: end of the SVG file.
        title: what the picture shows.
    """

    head: str
    frames: tuple[str, ...]
    tail: str
    title: str

    def __len__(self) -> int:
        return len(self.frames)

    def frame(self, number: int) -> Picture:
        """Return one frame, from 0, as a picture of its own. Raises ValueError if there is no such frame."""
        if not 0 <= number < len(self):
            raise ValueError(f"frame: number: expected 0 to {len(self) - 1}, got {number}")
        return Picture(self.head + self.frames[number] + self.tail)

    def _repr_html_(self) -> str:
        """All frames, of which a script shows one. Without JavaScript it is the first, and no controls."""
        hidden = ' style="display:none"'
        groups = [f'<g data-step="{n}"{hidden if n else ""}>{frame}</g>' for n, frame in enumerate(self.frames)]
        svg = wide_enough(self.head + "".join(groups) + self.tail)
        controls = _CONTROLS.format(last=len(self) - 1).replace("<button ", f'<button style="{_BUTTON}" ')
        # No line may be empty: Markdown would take what follows for prose.
        return (
            f'<div class="minisgl-steps">\n{controls}\n<div style="overflow-x:auto">{svg}</div>\n</div>\n'
            f"<script>{_SCRIPT}</script>"
        )

    def save(self, path: str | Path) -> None:
        """Write a page of its own into an `.html` file. Raises ValueError for any other suffix."""
        style = "body{color-scheme:light dark;font-family:system-ui,sans-serif;max-width:800px;margin:2rem auto}"
        head = f'<!doctype html><meta charset="utf-8"><title>{escape(self.title)}</title><style>{style}</style>'
        write(path, ".html", f"{head}\n{self._repr_html_()}\n")
