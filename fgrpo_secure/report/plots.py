"""The plots of one run. Each caption speaks of what is drawn, and says where one curve hides another."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fgrpo_secure.report.curves import (
    COLOURS,
    HEADROOM,
    HEIGHT,
    INK,
    Curve,
    Key,
    Plot,
    bars,
    coincidences,
    draw,
    panels,
    svg_of,
)
from fgrpo_secure.report.facts import RunFacts

LEAST = 0.01  # the least that an axis reaches to
TALL = 3.6  # inches of two panels
STAGES = ("opening sums, next adapter", "measuring pass rates")


def all_plots(facts: RunFacts) -> list[Plot]:
    """Every plot of one run, in the order of the page."""
    makers = (_learning, _budget, _cohort, _traffic, _times, _noise, _clip, _weights)
    return [plot for make in makers if (plot := make(facts)) is not None]


def _learning(facts: RunFacts) -> Plot:
    """Rates and rewards have different units, so that each has axes of its own."""
    summary = facts.summary
    starts = {
        "pass_rate": summary["pass_rate.initial"],
        "pass_rate_greedy": summary["pass_rate.greedy_initial"],
        "reward": summary["reward.initial"],
    }
    names = ("pass rate, sampled", "pass rate, greedy", "mean reward")
    curves = []
    for (key, start), name in zip(starts.items(), names, strict=True):
        rounds, values = facts.series(key)
        curves.append(Curve(name, [0, *rounds], [start, *values]))
    figure, (above, below) = panels(2, TALL)
    above.set_ylabel("pass rate")
    below.set_ylabel("reward")
    keys = [*draw(above, curves[:2]), *draw(below, curves[2:], 2)]
    _from_zero(above, curves[:2])
    measured: dict[float, list[str]] = {}
    for curve in curves:
        for place, value in zip(curve.rounds, curve.values, strict=True):
            measured.setdefault(place, []).append(f"{value:.3f}")
    caption = _sentences(
        "Pass rate and mean reward on public problems that no client trains on, tasks counted equally; round 0 is "
        "before training. Sampled: share of drawn answers that are right; greedy: of likeliest answers.",
        coincidences(above, curves[:2]),
    )
    rows = tuple((f"{place:.0f}", *values) for place, values in sorted(measured.items()))
    return Plot(
        "learning", "What was learned", caption, svg_of(figure, "learning"), tuple(keys), ("round", *names), rows
    )


def _budget(facts: RunFacts) -> Plot | None:
    claims = facts.stated.claims
    if claims is None:
        return None
    server, release = claims.server, claims.release
    rounds, spent = facts.series("epsilon_spent")
    figure, (axes,) = panels(1, HEIGHT)
    curves = [Curve("spent", rounds, spent)]
    if server.epsilon == release.epsilon:
        curves.append(Curve("allowed, against the server and against readers of the model", [], [server.epsilon]))
    else:
        curves.append(Curve("allowed, against the server", [], [server.epsilon]))
        curves.append(Curve("allowed, against readers of the model", [], [release.epsilon]))
    axes.set_ylabel("epsilon")
    axes.set_ylim(0, HEADROOM * max([*spent, server.epsilon, release.epsilon]))
    keys = draw(axes, curves)
    caption = _sentences(
        f"What each {facts.unit} had spent after each round, of the {server.epsilon:.4g} allowed at delta "
        f"{server.delta:g}. It is read off levels that were fixed before the run, so that it moves in steps.",
        coincidences(axes, curves),
    )
    rows = tuple((f"{place}", f"{value:.4g}") for place, value in zip(rounds, spent, strict=True))
    return Plot(
        "budget", "Privacy budget", caption, svg_of(figure, "budget"), tuple(keys), ("round", "epsilon spent"), rows
    )


def _cohort(facts: RunFacts) -> Plot:
    rounds, survivors = facts.series("survivors")
    _, dropped = facts.series("dropped")
    floor = facts.stated.assumptions.minimum_survivors
    lost = any(dropped)
    figure, (axes,) = panels(1, HEIGHT)
    axes.set_ylabel("clients")
    stacked: list[tuple[str, Sequence[float]]] = [("in the sum", survivors)]
    keys = bars(axes, rounds, [*stacked, ("dropped out", dropped)] if lost else stacked)
    axes.axhline(floor, color=INK, linestyle="dashed", linewidth=2)  # the page's own colour: seen upon the bars, too
    keys.append(Key("fewest allowed", "currentColor", "dashed"))
    caption = (
        f"Clients whose vectors are in each round's sum{', and those that dropped out' if lost else ''}. With fewer "
        f"than {floor} a session gives nothing." + ("" if lost else " In no round did a client drop out.")
    )
    rows = tuple((f"{r}", f"{s:.0f}", f"{d:.0f}") for r, s, d in zip(rounds, survivors, dropped, strict=True))
    columns = ("round", "in the sum", "dropped out")
    return Plot("cohort", "Who took part", caption, svg_of(figure, "cohort"), tuple(keys), columns, rows)


def _traffic(facts: RunFacts) -> Plot:
    labels = {"bytes_up_per_client": "sent by a client", "bytes_down_per_client": "received by a client"}
    curves = []
    for key, label in labels.items():
        rounds, values = facts.series(key)
        curves.append(Curve(label, rounds, [value / 1000 for value in values]))
    said = (
        "Mean bytes of one client in each round, as the server counted them: all messages of the protocol, and the "
        "adapter that a client receives."
    )
    return _pair("traffic", "Traffic", "kilobytes", curves, said, ("round", "kB sent", "kB received"))


def _pair(name: str, title: str, unit: str, curves: list[Curve], said: str, columns: tuple[str, str, str]) -> Plot:
    """Two curves over the same rounds, from zero."""
    figure, (axes,) = panels(1, HEIGHT)
    axes.set_ylabel(unit)
    keys = draw(axes, curves)
    _from_zero(axes, curves)
    caption = _sentences(said, coincidences(axes, curves))
    one, other = curves
    rows = tuple((f"{r}", f"{a:.4g}", f"{b:.4g}") for r, a, b in zip(one.rounds, one.values, other.values, strict=True))
    return Plot(name, title, caption, svg_of(figure, name), tuple(keys), columns, rows)


def _times(facts: RunFacts) -> Plot:
    """Stages that add up to the whole: what the server's processor did in the run."""
    total, sums = facts.summary["seconds.total"], facts.summary["seconds.aggregation"]
    spent = (sums, max(0.0, total - sums))
    figure, (axes,) = panels(1, 1.5, "seconds of processor time")
    axes.barh([1, 0], spent, color=COLOURS[:2])
    axes.set_yticks([])
    axes.set_xlim(0, HEADROOM * max(*spent, 1e-9))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    caption = (
        f"Processor time of the server, {total:.2f} s in all: {spent[0]:.2f} s for {STAGES[0]}, {spent[1]:.2f} s for "
        f"{STAGES[1]}. Clients' times are their own, and are not published."
    )
    keys = tuple(Key(label, colour, "bar") for label, colour in zip(STAGES, COLOURS, strict=False))
    rounds, values = facts.series("seconds_server")
    rows = (
        *((f"{STAGES[0]}, round {place}", f"{value:.3g}") for place, value in zip(rounds, values, strict=True)),
        *((f"{stage}, all rounds", f"{value:.3g}") for stage, value in zip(STAGES, spent, strict=True)),
        ("all", f"{total:.3g}"),
    )
    return Plot("times", "The server's time", caption, svg_of(figure, "times"), keys, ("stage", "seconds"), rows)


def _noise(facts: RunFacts) -> Plot | None:
    expected = [value for value in facts.noise_norms() if value is not None]
    if len(expected) != len(facts.rounds) or not expected:
        return None
    rounds, norms = facts.series("update_norm")
    curves = [Curve("released, noise included", rounds, norms), Curve("expected of the noise alone", rounds, expected)]
    said = (
        "Length of the mean update that each round released, and the length that its noise alone is expected to have. "
        "Where the two are close, a single update is mostly noise: what is learned adds up over the rounds."
    )
    return _pair("noise", "Noise against signal", "L2 norm", curves, said, ("round", "released", "noise alone"))


def _clip(facts: RunFacts) -> Plot | None:
    rule = facts.basis.config.privacy.adaptive_clip
    rounds, norms = facts.series("clip_norm")
    _, shares = facts.series("fraction_within")
    if rule is None or not rounds:
        return None
    spread = [2 * (value or 0.0) for value in facts.score_deviations(0.5)]
    figure, (above, below) = panels(2, TALL)
    above.set_ylabel("clip norm")
    below.set_ylabel("fraction within")
    keys = [
        *draw(above, [Curve("clip norm", rounds, norms)]),
        *draw(
            below,
            [
                Curve(f"fraction of clients within it, by the noisy sums{_bars(spread)}", rounds, shares, spread),
                Curve(f"aim: {rule.quantile:.0%}", [], [rule.quantile]),
            ],
            1,
        ),
    ]
    rows = tuple(
        (f"{r}", f"{norm:.4g}", f"{share:.3f} ± {width:.3f}")
        for r, norm, share, width in zip(rounds, norms, shares, spread, strict=True)
    )
    caption = (
        f"The clip norm moves until {rule.quantile:.0%} of the clients need no clipping. Their share is decoded from "
        f"noisy sums{_beyond(spread)}. No client's norm is known."
    )
    columns = ("round", "clip norm", "fraction within")
    return Plot("clip", "Clip norm", caption, svg_of(figure, "clip"), tuple(keys), columns, rows)


def _weights(facts: RunFacts) -> Plot | None:
    rounds, weights = facts.series("mean_weight")
    _, gains = facts.series("mean_gain")
    if not rounds:
        return None
    weighting = facts.basis.config.weighting
    spread = [2 * (value or 0.0) for value in facts.score_deviations((1 - weighting.min_weight) / 2)]
    wide = [2 * (value or 0.0) for value in facts.score_deviations(weighting.gain_clip)]
    figure, (above, below) = panels(2, TALL)
    above.set_ylabel("weight")
    below.set_ylabel("gain")
    keys = [
        *draw(above, [Curve(f"mean weight{_bars(spread)}", rounds, weights, spread)]),
        *draw(below, [Curve(f"mean relative gain{_bars(wide)}", rounds, gains, wide)], 1),
    ]
    rows = tuple(
        (f"{r}", f"{w:.3f} ± {a:.3f}", f"{g:.3f} ± {b:.3f}")
        for r, w, a, g, b in zip(rounds, weights, spread, gains, wide, strict=True)
    )
    caption = (
        f"Means over the clients of each round, decoded from noisy sums{_beyond(spread)}. No client's own is known."
    )
    columns = ("round", "weight", "gain")
    return Plot("weights", "Mean weight and gain", caption, svg_of(figure, "weights"), tuple(keys), columns, rows)


def _bars(spread: Sequence[float]) -> str:
    return " ± 2 standard deviations of the noise" if any(spread) else ""


def _beyond(spread: Sequence[float]) -> str:
    """Why a figure may lie where none can be."""
    return ", and noise can carry it beyond what is possible" if any(spread) else ""


def _from_zero(axes: Axes, curves: Sequence[Curve]) -> None:
    axes.set_ylim(0, HEADROOM * max([LEAST, *(value for curve in curves for value in curve.values)]))


def _sentences(*parts: str) -> str:
    return " ".join(part for part in parts if part)
