"""Several runs beside each other: what was checked of each, a table, and utility against privacy.

Runs share axes only where their figures mean the same: pass rates of one public evaluation set, epsilons of one unit
at one delta. Others have axes of their own, and the page says why.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes

from fgrpo_secure.report.curves import HEADROOM, HEIGHT, Curve, Key, Plot, coincidences, draw, panels, svg_of
from fgrpo_secure.report.facts import RunFacts

LEAST_RATE = 0.05  # the least that an axis of pass rates reaches to
COLUMNS = (
    "run",
    "unit",
    "epsilon spent of allowed",
    "delta",
    "pass rate, sampled",
    "greedy",
    "evaluation set",
    "data owners",
)


def rows(runs: Sequence[RunFacts]) -> list[tuple[str, ...]]:
    """One row for each run, under COLUMNS."""
    sets = evaluation_sets(runs)
    return [_row(run, sets[position]) for position, run in enumerate(runs)]


def all_plots(runs: Sequence[RunFacts]) -> list[Plot]:
    """Pass rate over rounds for each evaluation set; final pass rate against epsilon for each unit and delta, too."""
    sets = evaluation_sets(runs)
    together: Mapping[str, list[RunFacts]] = _grouped(runs, sets)
    return [
        *(_curves(name, group, len(together) > 1) for name, group in together.items()),
        *(plot for name, group in together.items() for plot in _frontiers(name, group, len(together) > 1)),
    ]


def evaluation_sets(runs: Sequence[RunFacts]) -> list[str]:
    """A letter for each run: the same where public problems, their reward and the number of samples are the same."""
    kinds: list[object] = []
    for run in runs:
        config = run.basis.config
        asked = config.evaluation.model_dump(exclude={"every"})
        levels = {(str(each.task), each.difficulty, str(each.task_settings)) for each in config.client if each.task}
        kinds.append((sorted(asked.items(), key=str), sorted(levels) if config.evaluation.data == "tasks" else None))
    known = [kind for place, kind in enumerate(kinds) if kind not in kinds[:place]]
    return [_letter(known.index(kind)) for kind in kinds]


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def _grouped(runs: Sequence[RunFacts], keys: Sequence[str]) -> dict[str, list[RunFacts]]:
    groups = defaultdict(list)
    for key, run in zip(keys, runs, strict=True):
        groups[key].append(run)
    return dict(groups)


def _row(run: RunFacts, evaluated_on: str) -> tuple[str, ...]:
    claims, summary = run.stated.claims, run.summary
    budget = ("none", "-")
    if claims is not None:
        server = claims.server
        budget = (f"{server.epsilon_spent:.3g} of {server.epsilon:.3g}", f"{server.delta:g}")
    unit = run.unit if run.private else "none: no differential privacy"
    rates = [
        f"{_rate(summary[before])} to {_rate(summary[after])}"
        for before, after in (
            ("pass_rate.initial", "pass_rate.final"),
            ("pass_rate.greedy_initial", "pass_rate.greedy_final"),
        )
    ]
    return (run.name, unit, *budget, *rates, evaluated_on, str(run.stated.run.clients))


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _curves(name: str, runs: Sequence[RunFacts], several: bool) -> Plot:
    figure, (axes,) = panels(1, HEIGHT)
    axes.set_ylabel("pass rate, sampled")
    curves = []
    for run in runs:
        rounds, values = run.series("pass_rate")
        curves.append(Curve(run.name, [0, *rounds], [run.summary["pass_rate.initial"], *values]))
    keys = draw(axes, curves)
    _rates_from_zero(axes, curves)
    points = tuple(
        (curve.label, f"{place:.0f}", f"{value:.3f}")
        for curve in curves
        for place, value in zip(curve.rounds, curve.values, strict=True)
    )
    caption = " ".join(
        ("Pass rate on the same public problems, as each server asserts it.", coincidences(axes, curves))
    ).strip()
    title = f"Learning, evaluation set {name}" if several else "Learning"
    identifier = f"curves-{name}"
    columns = ("run", "round", "pass rate")
    return Plot(identifier, title, caption, svg_of(figure, identifier), tuple(keys), columns, points)


def _frontiers(name: str, runs: Sequence[RunFacts], several: bool) -> list[Plot]:
    """One for each unit and delta. Runs without privacy are levels in each: no finite epsilon is theirs."""
    measured = [run for run in runs if run.summary["pass_rate.final"] is not None]
    units: dict[tuple[str, float], list[RunFacts]] = defaultdict(list)
    for run in measured:
        if run.stated.claims is not None:
            units[run.unit, run.stated.claims.server.delta].append(run)
    unprotected = [run for run in measured if not run.private]
    found = []
    for place, ((unit, delta), group) in enumerate(units.items()):
        if len(group) + len(unprotected) < 2:
            continue  # one point compares with nothing
        identifier = f"frontier-{name}-{place}"
        title = f"Privacy of each {unit} and utility" + (f", evaluation set {name}" if several else "")
        found.append(_frontier(identifier, title, f"for each {unit} at delta {delta:g}", group, unprotected))
    return found


def _frontier(
    identifier: str, title: str, meant: str, runs: Sequence[RunFacts], unprotected: Sequence[RunFacts]
) -> Plot:
    figure, (axes,) = panels(1, HEIGHT, "epsilon spent against the server")
    axes.set_ylabel("final pass rate")
    points, keys = [], list[Key]()
    curves = []
    for run in runs:
        claims = run.stated.claims
        if claims is not None:
            curves.append(Curve(run.name, [claims.server.epsilon_spent], [run.summary["pass_rate.final"]]))
            points.append((run.name, f"{claims.server.epsilon_spent:.3g}", f"{run.summary['pass_rate.final']:.1%}"))
    levels = [Curve(f"{run.name}: no privacy", [], [run.summary["pass_rate.final"]]) for run in unprotected]
    keys = draw(axes, [*curves, *levels])
    points += [(run.name, "none", f"{run.summary['pass_rate.final']:.1%}") for run in unprotected]
    keys = [*(replace(key, dash="point") for key in keys[: len(curves)]), *keys[len(curves) :]]
    axes.set_xlim(0, HEADROOM * max(curve.rounds[0] for curve in curves))
    _rates_from_zero(axes, [*curves, *levels])
    caption = f"Final pass rate, sampled, against the epsilon {meant}: further left protects more, higher learned more."
    if unprotected:
        caption += " Runs without differential privacy are lines, as they have no epsilon."
    columns = ("run", "epsilon spent", "pass rate")
    return Plot(identifier, title, caption, svg_of(figure, identifier), tuple(keys), columns, tuple(points))


def _rates_from_zero(axes: Axes, curves: Sequence[Curve]) -> None:
    axes.set_ylim(0, HEADROOM * max([LEAST_RATE, *(value for curve in curves for value in curve.values)]))
