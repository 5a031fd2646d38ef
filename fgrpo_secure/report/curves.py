"""How a report draws: figures as inline SVG whose text takes the page's colour, and a legend in HTML beside them.

A legend inside a figure shrinks with it and keeps its own colours; as a list it wraps, can be read aloud, and is as
large as the text around it. No two curves hide each other unsaid: `coincidences` says where they lie on one another.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, VIOLET = "#2f7ed8", "#c8611c", "#2f8f53", "#9a63c7"  # 3:1 or more on white and on near-black
COLOURS = (BLUE, ORANGE, GREEN, VIOLET)
DASHES = ("solid", "dashed", "dotted", "dashdot")
MARKERS = ("o", "s", "^", "D")
WIDTHS = (2.8, 1.8, 1.8, 1.8)  # the first lies below: a line upon it leaves its edges to be seen
INK = "#123456"  # stands for the page's own text colour, and is replaced by it
WIDTH, HEIGHT = 4.4, 2.6  # inches: 317 units, so that text of 11 units has 11 px on a phone
TEXT = 11
CLOSE = 0.015  # of an axis: nearer than that, one line hides the other
HEADROOM = 1.15  # of the highest bar
STYLE: Any = {  # matplotlib names its settings in a type of its own
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # the same identifiers every time: a report is reproducible
    "font.family": "sans-serif",
    "font.size": TEXT,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Key:
    """One line of a legend. `dash` is "bar" for a filled area, "point" for a single point."""

    label: str
    colour: str
    dash: str


@dataclass(frozen=True)
class Curve:
    """Values over rounds; a level, if there are no rounds. `spread` are half lengths of error bars."""

    label: str
    rounds: Sequence[float]
    values: Sequence[float]
    spread: Sequence[float] | None = None


@dataclass(frozen=True)
class Plot:
    """An SVG with the words that replace it for those who do not see it. `identifier` names it in the page."""

    identifier: str
    title: str
    caption: str
    svg: str
    legend: tuple[Key, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def panels(count: int, height: float, x: str = "round") -> tuple[Figure, list[Axes]]:
    """An empty figure with so many axes above each other, in the style of a report."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        found = [figure.add_subplot(count, 1, place + 1) for place in range(count)]
        for axes in found:
            axes.grid(alpha=0.25, color=INK)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        found[-1].set_xlabel(x)
    return figure, found


def draw(axes: Axes, curves: Sequence[Curve], first: int = 0) -> list[Key]:
    """Draw the curves in the styles from `first` on; their legend."""
    keys = []
    for place, curve in enumerate(curves, first):
        colour, form = COLOURS[place % len(COLOURS)], (place + place // len(COLOURS)) % len(DASHES)
        style: dict[str, Any] = {"color": colour, "linestyle": DASHES[form], "linewidth": WIDTHS[form]}
        if not curve.values:  # a run that ended before its first round
            continue
        if not curve.rounds:
            axes.axhline(curve.values[0], **style)
        elif curve.spread is not None:
            axes.errorbar(curve.rounds, curve.values, yerr=curve.spread, marker="o", markersize=4, capsize=2, **style)
        else:
            size = 5 if place == first else 3.5
            axes.plot(curve.rounds, curve.values, marker=MARKERS[form], markersize=size, **style)
        keys.append(Key(curve.label, colour, DASHES[form]))
    return keys


def bars(axes: Axes, rounds: Sequence[float], stacked: Sequence[tuple[str, Sequence[float]]]) -> list[Key]:
    """Bars upon each other, with room above the highest; their legend."""
    below = [0.0] * len(rounds)
    keys = []
    for (label, values), colour in zip(stacked, COLOURS, strict=False):
        axes.bar(rounds, values, bottom=below, color=colour)
        below = [one + other for one, other in zip(below, values, strict=True)]
        keys.append(Key(label, colour, "bar"))
    axes.set_ylim(0, HEADROOM * max([*below, 1e-9]))
    return keys


def coincidences(axes: Axes, curves: Sequence[Curve]) -> str:
    """A sentence for each pair of curves of which one hides the other in half of its rounds or more; else empty."""
    low, high = axes.get_ylim()
    return " ".join(_hidden([curve for curve in curves if curve.values], CLOSE * (high - low)))


def _hidden(curves: Sequence[Curve], near: float) -> Iterator[str]:
    for one, other in combinations(curves, 2):
        rounds = [each for each in one.rounds or other.rounds if not other.rounds or each in other.rounds]
        both = [(_at(one, each), _at(other, each)) for each in rounds] or [(one.values[0], other.values[0])]
        covered = sum(abs(mine - theirs) <= near for mine, theirs in both)
        if rounds and len(rounds) > covered >= max(2, len(rounds) / 2):
            yield f"“{one.label}” and “{other.label}” lie on each other in {covered} of {len(rounds)} rounds."
        elif covered == len(both) and (len(both) > 1 or not rounds):
            yield f"“{one.label}” and “{other.label}” lie on each other throughout."


def _at(curve: Curve, where: float) -> float:
    return curve.values[list(curve.rounds).index(where)] if curve.rounds else curve.values[0]


def svg_of(figure: Figure, identifier: str) -> str:
    """The figure without prologue, date or size of its own: the page scales it. Its parts are named after it."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" ', r"<svg \1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*" ', r'\1aria-hidden="true" focusable="false" ', text, count=1)
    text = re.sub(r'<path d="[^"]*" style="fill: #ffffff[^"]*"/>', "", text)  # the white ground
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{identifier}-", text)
    return text.replace(INK, "currentColor")
