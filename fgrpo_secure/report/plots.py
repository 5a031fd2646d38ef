"""Plots of a report as inline SVG: text stays text, and takes the page's colour in light and dark."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fgrpo_secure.report.facts import RunFacts

BLUE, ORANGE, GREEN = "#2f7ed8", "#d9702b", "#3a9a5c"  # readable on white and on near-black
INK = "#123456"  # stands for the page's own text colour, and is replaced by it
STYLE: Any = {  # matplotlib names its settings in a type of its own
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # the same identifiers every time: a report is reproducible
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Plot:
    """An SVG with the words that replace it for those who do not see it. `identifier` names it in the page."""

    identifier: str
    title: str
    caption: str
    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def all_plots(facts: RunFacts) -> list[Plot]:
    """Every plot of one run, in the order of the page."""
    makers = (_learning, _budget, _cohort, _bytes, _times, _noise, _clip, _weights)
    return [plot for make in makers if (plot := make(facts)) is not None]


def _learning(facts: RunFacts) -> Plot:
    names = ("reward", "pass_rate", "pass_rate_greedy")
    start = {
        "reward": facts.summary["reward.initial"],
        "pass_rate": facts.summary["pass_rate.initial"],
        "pass_rate_greedy": facts.summary["pass_rate.greedy_initial"],
    }
    labels = ("mean reward", "pass rate, sampled", "pass rate, greedy")
    figure, axes = axes_of("round", "on the public evaluation set")
    measured: dict[int, list[str]] = {}
    for name, label, colour in zip(names, labels, (GREEN, BLUE, ORANGE), strict=True):
        rounds, values = facts.series(name)
        axes.plot([0, *rounds], [start[name], *values], marker="o", label=label, color=colour)
        for place, value in zip([0, *rounds], [start[name], *values], strict=True):
            measured.setdefault(place, []).append(f"{value:.3f}")
    legend(axes)
    rows = tuple((str(place), *values) for place, values in sorted(measured.items()))
    caption = "Reward and pass rate on public problems that no client trains on; tasks count equally."
    return Plot("learning", "What was learned", caption, svg_of(figure), ("round", *labels), rows)


def _budget(facts: RunFacts) -> Plot | None:
    if not facts.private:
        return None
    claims = facts.statement["claims"]
    figure, axes = axes_of("round", "epsilon")
    rounds, spent = facts.series("epsilon_spent")
    axes.plot(rounds, spent, marker="o", color=BLUE, label="spent, against the server")
    axes.axhline(claims["server"]["epsilon"], color=ORANGE, linestyle="--", label="allowed, against the server")
    axes.axhline(
        claims["release"]["epsilon"], color=GREEN, linestyle=":", label="allowed, against readers of the model"
    )
    axes.set_ylim(bottom=0)
    legend(axes)
    rows = tuple((str(place), f"{value:.4g}") for place, value in zip(rounds, spent, strict=True))
    caption = (
        f"Budget spent against the {claims['server']['epsilon']:.4g} allowed (delta {claims['server']['delta']:g}). "
        "What the server may learn bounds what a reader of the model may learn."
    )
    return Plot("budget", "Privacy budget", caption, svg_of(figure), ("round", "epsilon spent"), rows)


def _cohort(facts: RunFacts) -> Plot:
    rounds, survivors = facts.series("survivors")
    _, dropped = facts.series("dropped")
    figure, axes = axes_of("round", "clients")
    axes.bar(rounds, survivors, color=BLUE, label="in the sum")
    axes.bar(rounds, dropped, bottom=survivors, color=ORANGE, label="dropped out")
    floor = facts.statement["assumptions"]["minimum_survivors"]
    axes.axhline(floor, color=INK, linestyle="--", label="fewest allowed")
    legend(axes)
    rows = tuple((str(r), f"{s:.0f}", f"{d:.0f}") for r, s, d in zip(rounds, survivors, dropped, strict=True))
    caption = f"Clients in each sum, and those that dropped out. Below {floor} the round would have given nothing."
    return Plot("cohort", "Who took part", caption, svg_of(figure), ("round", "in the sum", "dropped out"), rows)


def _bytes(facts: RunFacts) -> Plot:
    caption = "Traffic of one client in each round, with everything that the protocol sends."
    return _lines(
        facts,
        Labels("bytes", "Traffic", caption, "kilobytes per client"),
        {"bytes_up_per_client": "sent", "bytes_down_per_client": "received"},
        1e-3,
    )


def _times(facts: RunFacts) -> Plot:
    caption = "Simulation only, outside the claim: processor time of all clients, and wall-clock time, on one machine."
    return _lines(
        facts,
        Labels("times", "Time per stage", caption, "seconds"),
        {
            "seconds": "whole round",
            "seconds_training": "training, all clients",
            "seconds_aggregation": "privacy and aggregation",
        },
        1.0,
    )


def _noise(facts: RunFacts) -> Plot | None:
    noise = facts.noise_norms()
    if any(value is None for value in noise) or not noise:
        return None
    rounds, norms = facts.series("update_norm")
    expected = [float(value) for value in noise if value is not None]
    figure, axes = axes_of("round", "L2 norm of the mean update")
    axes.plot(rounds, norms, marker="o", color=BLUE, label="released, noise included")
    axes.plot(rounds, expected, color=ORANGE, linestyle="--", label="expected from noise alone")
    axes.set_ylim(bottom=0)
    legend(axes)
    rows = tuple((str(r), f"{n:.4g}", f"{e:.4g}") for r, n, e in zip(rounds, norms, expected, strict=True))
    caption = "The released mean update, and what noise alone would measure. Where they meet, only many rounds help."
    return Plot("noise", "Noise against signal", caption, svg_of(figure), ("round", "released", "noise alone"), rows)


def _clip(facts: RunFacts) -> Plot | None:
    rule = facts.config.privacy.adaptive_clip
    rounds, norms = facts.series("clip_norm")
    _, shares = facts.series("share_within")
    if rule is None or not rounds:
        return None
    figure, (left, right) = _pair()
    spread = [2 * (value or 0.0) for value in facts.score_deviations(0.5)]
    left.plot(rounds, norms, color=BLUE, marker="o")
    right.errorbar(rounds, shares, yerr=spread, color=ORANGE, marker="o", capsize=2)
    right.axhline(rule.quantile, color=GREEN, linestyle="--")
    left.set_ylabel("clip norm")
    right.set_ylabel("share of clients within it")
    rows = tuple(
        (str(r), f"{norm:.4g}", f"{share:.3f} ± {width:.3f}")
        for r, norm, share, width in zip(rounds, norms, shares, spread, strict=True)
    )
    caption = (
        f"The clip norm is moved until {rule.quantile:.0%} of the clients need no clipping (dashed). The share is "
        "decoded from the noisy sums; bars are two standard deviations of the privacy noise. No client's norm is known."
    )
    return Plot("clip", "Clip norm", caption, svg_of(figure), ("round", "clip norm", "share within"), rows)


def _weights(facts: RunFacts) -> Plot | None:
    rounds, weights = facts.series("mean_weight")
    _, gains = facts.series("mean_gain")
    if not rounds:
        return None
    weighting = facts.config.weighting
    figure, (left, right) = _pair()
    spread = [2 * (value or 0.0) for value in facts.score_deviations((1 - weighting.min_weight) / 2)]
    wide = [2 * (value or 0.0) for value in facts.score_deviations(weighting.gain_clip)]
    left.errorbar(rounds, weights, yerr=spread, color=BLUE, marker="o", capsize=2)
    right.errorbar(rounds, gains, yerr=wide, color=ORANGE, marker="o", capsize=2)
    left.set_ylabel("mean weight")
    right.set_ylabel("mean relative gain")
    rows = tuple(
        (str(r), f"{w:.3f} ± {a:.3f}", f"{g:.3f} ± {b:.3f}")
        for r, w, a, g, b in zip(rounds, weights, spread, gains, wide, strict=True)
    )
    caption = (
        "Decoded from the noisy sums; bars are two standard deviations of the privacy noise. No client's own is known."
    )
    return Plot("weights", "Mean weight and mean gain", caption, svg_of(figure), ("round", "weight", "gain"), rows)


@dataclass(frozen=True)
class Labels:
    """The words of a plot."""

    identifier: str
    title: str
    caption: str
    unit: str


def _lines(facts: RunFacts, labels: Labels, series: dict[str, str], factor: float) -> Plot:
    figure, axes = axes_of("round", labels.unit)
    columns: list[list[str]] = []
    rounds: list[int] = []
    for (key, label), colour in zip(series.items(), (BLUE, ORANGE, GREEN), strict=False):
        rounds, values = facts.series(key)
        axes.plot(rounds, [factor * value for value in values], marker="o", label=label, color=colour)
        columns.append([f"{factor * value:.4g}" for value in values])
    axes.set_ylim(bottom=0)
    legend(axes)
    rows = tuple((str(place), *values) for place, *values in zip(rounds, *columns, strict=True))
    return Plot(labels.identifier, labels.title, labels.caption, svg_of(figure), ("round", *series.values()), rows)


def axes_of(x: str, y: str) -> tuple[Figure, Axes]:
    """An empty figure in the style of a report."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        _dress(axes, x)
        axes.set_ylabel(y)
    return figure, axes


def _pair() -> tuple[Figure, Sequence[Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.0), layout="constrained")
        both = [figure.add_subplot(1, 2, place) for place in (1, 2)]
        for axes in both:
            _dress(axes, "round")
    return figure, both


def legend(axes: Axes) -> None:
    """Above the axes, where it hides no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, fontsize=9)


def _dress(axes: Axes, x: str) -> None:
    axes.set_xlabel(x)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25, color=INK)


def svg_of(figure: Figure) -> str:
    """The figure without prologue, date or size of its own: the page scales it."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" ', r"<svg \1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*" ', r'\1aria-hidden="true" focusable="false" ', text, count=1)
    text = re.sub(r'<path d="[^"]*" style="fill: #ffffff[^"]*"/>', "", text)  # the white ground
    return text.replace(INK, "currentColor")
