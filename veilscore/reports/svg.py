"""Draw one pair of axes as SVG: lines, bars, steps and notes in data coordinates, with ticks and a legend.

Nothing is needed but Python. A drawing is deterministic, loads nothing from outside, keeps text as text, and names its
colours by CSS variables (with the light palette as fallback), so that it fits a light page, a dark page and paper.
Colours follow Okabe and Ito's palette, and lines also differ by dashes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from markupsafe import escape

from veilscore.errors import ConfigError

PALETTE: Final = {
    "ink": "#1b2430",
    "soft": "#5b6673",
    "grid": "#dde2e7",
    "joint": "#0072b2",
    "other": "#8a6d9e",
    "third": "#009e73",
    "good": "#4c9fd0",
    "bad": "#d55e00",
}
DASHED, DOTTED, FINE = "6 3", "2 2", "1 3"
_WIDTH, _HEIGHT = 490, 330
_TOP, _RIGHT, _BOTTOM = 12, 16, 44
_CHARACTER = 6.2  # pixels of a character at the size of tick labels, on the wide side
_ROOM = 0.04  # of the range of the data, where the caller sets no limit
_SIDES = {"start": 4.0, "end": -4.0, "middle": 0.0}


def percent(value: float, step: float) -> str:
    """Return a share as percent, with as many digits as the ticks need."""
    return f"{100 * value:.{_digits(100 * step)}f}%".replace("-", "\u2212")


def number(value: float, step: float) -> str:
    """Return a number with as many digits as the ticks need."""
    return f"{value:.{_digits(step)}f}".replace("-", "\u2212")


class Chart:
    """Collects what is to be drawn; its title is for screen readers and tooltips.

    x_limits, y_limits : (low, high); either may be None, which the data then decide. x_format, y_format : label of a
    tick from its value and the distance of ticks. log_y : the y axis shows powers of ten.
    """

    def __init__(self, title: str, xlabel: str, ylabel: str) -> None:
        self.title, self.xlabel, self.ylabel = title, xlabel, ylabel
        self.x_limits: tuple[float | None, float | None] = (None, None)
        self.y_limits: tuple[float | None, float | None] = (None, None)
        self.x_format: Callable[[float, float], str] = number
        self.y_format: Callable[[float, float], str] = number
        self.whole_x = False
        self.most_x = 7
        self.grid_x = True
        self.log_y = False
        self.legend: str | None = None
        self._marks: list[Callable[[Callable[[float], str], Callable[[float], str]], str]] = []
        self._names: list[tuple[str, str, str, bool]] = []
        self._x: list[float] = []
        self._y: list[float] = []

    def named_x(self, names: Sequence[str]) -> None:
        """Give names to 0, 1, ... on the x axis, in place of numbers."""
        self.x_format = lambda value, _: names[round(value)] if 0 <= round(value) < len(names) else ""
        self.x_limits, self.grid_x, self.whole_x = (-0.6, len(names) - 0.4), False, True
        self.most_x = len(names) + 2  # so that each has its tick

    def line(
        self,
        x: Sequence[float],
        y: Sequence[float],
        colour: str,
        *,
        label: str = "",
        dash: str = "",
        width: float = 1.6,
        dots: float = 0,
        back: bool = False,
    ) -> None:
        """Draw a line through points, with dots of a radius; `width` 0 draws the dots alone, `back` below all else."""
        self._reach(x, y)
        points = list(zip(x, y, strict=True))

        def draw(at_x: Callable[[float], str], at_y: Callable[[float], str]) -> str:
            places = [(at_x(a), at_y(b)) for a, b in points]
            path = "M" + "L".join(f"{a} {b}" for a, b in places)
            drawn = f'<path d="{path}" {_stroke(colour, width, dash)}/>' if width else ""
            round_ = (f'<circle cx="{a}" cy="{b}" r="{dots:g}" fill="{_ink(colour)}"/>' for a, b in places)
            return drawn + ("".join(round_) if dots else "")

        self._marks.insert(0 if back else len(self._marks), draw)
        if label:
            self._names.append((label, colour, dash, not width))

    def steps(self, edges: Sequence[float], heights: Sequence[float], colour: str, *, label: str, dash: str) -> None:
        """Draw a histogram's outline over its filled area; one more edge than heights."""
        x = [edge for edge in edges for _ in (0, 1)]
        y = [0.0, *(height for height in heights for _ in (0, 1)), 0.0]
        self._reach(x, y)

        def draw(at_x: Callable[[float], str], at_y: Callable[[float], str]) -> str:
            path = "M" + "L".join(f"{at_x(a)} {at_y(b)}" for a, b in zip(x, y, strict=True))
            return f'<path d="{path}Z" fill="{_ink(colour)}" fill-opacity="0.22"/>'

        self._marks.append(draw)
        self.line(x, y, colour, label=label, dash=dash)

    def bars(self, x: Sequence[float], heights: Sequence[float], width: float, colour: str, label: str = "") -> None:
        """Draw bars from zero, each around its x."""
        self._reach([*(a - width / 2 for a in x), *(a + width / 2 for a in x)], [0.0, *heights])
        bars = list(zip(x, heights, strict=True))

        def draw(at_x: Callable[[float], str], at_y: Callable[[float], str]) -> str:
            shapes = (f"M{at_x(a - width / 2)} {at_y(0)}V{at_y(b)}H{at_x(a + width / 2)}V{at_y(0)}Z" for a, b in bars)
            return f'<path d="{"".join(shapes)}" fill="{_ink(colour)}"/>'

        self._marks.append(draw)
        if label:
            self._names.append((label, colour, "", True))

    def rule(self, colour: str, *, x: float | None = None, y: float | None = None, dash: str = "", label: str = "",
             width: float = 1.0) -> None:  # fmt: skip
        """Draw a line over the whole height at `x`, or over the whole width at `y`."""
        self._reach([] if x is None else [x], [] if y is None else [y])

        def draw(at_x: Callable[[float], str], at_y: Callable[[float], str]) -> str:
            path = f"M0 {at_y(y)}H{_WIDTH}" if y is not None else f"M{at_x(x or 0.0)} 0V{_HEIGHT}"
            return f'<path d="{path}" {_stroke(colour, width, dash)}/>'

        self._marks.append(draw)
        if label:
            self._names.append((label, colour, dash, False))

    def whiskers(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> None:
        """Draw the interval of each point upright, with caps."""
        self._reach(x, [*low, *high])
        spans = list(zip(x, low, high, strict=True))

        def draw(at_x: Callable[[float], str], at_y: Callable[[float], str]) -> str:
            cap = "m-2 0h4m-2 0"
            path = "".join(f"M{at_x(a)} {at_y(low)}{cap}V{at_y(high)}{cap}" for a, low, high in spans)
            return f'<path d="{path}" {_stroke(colour, 1.0, "")}/>'

        self._marks.append(draw)

    def note(self, x: float, y: float, text: str, *, anchor: str = "middle", below: bool = False) -> None:
        """Write a text beside a point: over it or `below`, around it or with its start or end there."""
        self._reach([x], [y])

        def draw(at_x: Callable[[float], str], at_y: Callable[[float], str]) -> str:
            place = f'x="{at_x(x)}" y="{at_y(y)}" dx="{_SIDES[anchor]:g}" dy="{13 if below else -4}"'
            return f'<text {place} text-anchor="{anchor}">{escape(text)}</text>'

        self._marks.append(draw)

    def _reach(self, x: Sequence[float], y: Sequence[float]) -> None:
        self._x += [value for value in x if math.isfinite(value)]
        self._y += [value for value in y if math.isfinite(value)]

    def to_svg(self) -> str:
        """Return the chart as one `<svg>` element for an HTML page."""
        rise: Callable[[float], float] = _log if self.log_y else float
        x_low, x_high = _limits(self._x, self.x_limits)
        y_low, y_high = _limits([rise(value) for value in self._y], self.y_limits)
        x_ticks, x_step = ticks(x_low, x_high, self.most_x, whole=self.whole_x)
        y_ticks, y_step = ticks(y_low, y_high, 6, whole=self.log_y)
        x_texts = [self.x_format(value, x_step) for value in x_ticks]
        y_texts = [f"1e{value:.0f}" if self.log_y else self.y_format(value, y_step) for value in y_ticks]
        left = 26 + _CHARACTER * max(map(len, y_texts), default=0)
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

        def at_x(value: float) -> str:
            return f"{left + (value - x_low) / (x_high - x_low) * (right - left):.1f}"

        def at_y(value: float) -> str:
            return height(rise(value))

        def height(risen: float) -> str:
            return f"{bottom - (risen - y_low) / (y_high - y_low) * (bottom - _TOP):.1f}"

        grid = "".join(f"M{left:.1f} {height(value)}H{right}" for value in y_ticks)
        grid += "".join(f"M{at_x(value)} {_TOP}V{bottom}" for value in x_ticks) if self.grid_x else ""
        small = [f'<text x="{at_x(v)}" y="{bottom + 15}" text-anchor="middle">{escape(t)}</text>'
                 for v, t in zip(x_ticks, x_texts, strict=True)]  # fmt: skip
        small += [f'<text x="{left - 6:.1f}" y="{height(v)}" dy="3.5" text-anchor="end">{escape(t)}</text>'
                  for v, t in zip(y_ticks, y_texts, strict=True)]  # fmt: skip
        middle = (_TOP + bottom) / 2
        drawn = "".join(mark(at_x, at_y) for mark in self._marks)
        scope = "c" + hashlib.sha256((self.title + drawn).encode()).hexdigest()[:10]
        title = escape(self.title)
        return (
            f'<svg class="chart" role="img" aria-label="{title}" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="11">'
            f'<title>{title}</title><clipPath id="{scope}"><rect x="{left - 2:.1f}" y="0" '
            f'width="{right - left + 4:.1f}" height="{bottom + 1}"/></clipPath>'
            f'<path d="{grid}" {_stroke("grid", 0.7, "")}/>'
            f'<path d="M{left:.1f} {_TOP}V{bottom}H{right}" {_stroke("soft", 0.8, "")}/>'
            f'<g fill="{_ink("soft")}">{"".join(small)}</g>'
            f'<g fill="{_ink("ink")}"><text x="{(left + right) / 2:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
            f'{escape(self.xlabel)}</text><text transform="translate(12 {middle:g}) rotate(-90)" text-anchor="middle">'
            f'{escape(self.ylabel)}</text><g clip-path="url(#{scope})">{drawn}</g>'
            f"{self._legend(left, right, bottom)}</g></svg>"
        )

    def _legend(self, left: float, right: float, bottom: float) -> str:
        if self.legend is None or not self._names:
            return ""
        up, _, side = self.legend.partition(" ")
        wide = 36 + _CHARACTER * max(len(name) for name, *_ in self._names)
        x = left + 10 if side == "left" else right - wide
        tall = 16 * len(self._names)
        y = {"upper": _TOP + 10, "lower": bottom - tall, "center": (_TOP + bottom - tall) / 2}[up]
        shown = []
        for row, (name, colour, dash, filled) in enumerate(self._names):
            line = y + 16 * row
            path = f'd="M{x:.1f} {line:.1f}h24"'
            shape = (
                f'<rect x="{x + 7:.1f}" y="{line - 5:.1f}" width="10" height="10" fill="{_ink(colour)}"/>'
                if filled
                else f"<path {path} {_stroke(colour, 1.8, dash)}/>"
            )
            shown.append(f'{shape}<text x="{x + 30:.1f}" y="{line + 4:.1f}">{escape(name)}</text>')
        return "".join(shown)

    def save(self, path: Path | str) -> None:
        """Write the chart as a file of its own, for documents that take SVG."""
        try:
            svg = self.to_svg().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1)
            Path(path).write_text(svg, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"chart {path} cannot be written: {error.strerror}") from error

    def _repr_html_(self) -> str:
        return f'<div style="max-width:38rem">{self.to_svg()}</div>'


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> tuple[list[float], float]:
    """Return round values of a range, at most `most` and one, and their distance: 1, 2 or 5 times a power of ten."""
    span = (high - low) / most
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= span * (1 - 1e-9))
    if whole:
        step = max(step, 1.0)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)], step


def _limits(values: Sequence[float], wanted: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = _ROOM * (high - low) or 0.5 * abs(high) or 0.5
    low = low - room if wanted[0] is None else wanted[0]
    high = high + room if wanted[1] is None else wanted[1]
    return low, high if high > low else low + 1.0


def _log(value: float) -> float:
    return math.log10(max(value, 1e-300))


def _digits(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _ink(colour: str) -> str:
    return f"var(--{colour}, {PALETTE[colour]})"


def _stroke(colour: str, width: float, dash: str) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'fill="none" stroke="{_ink(colour)}" stroke-width="{width:g}"{dashes}'
