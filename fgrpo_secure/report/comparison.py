"""Several runs beside each other: a table, and utility against privacy."""

from collections.abc import Sequence

from fgrpo_secure.report.facts import RunFacts
from fgrpo_secure.report.plots import BLUE, ORANGE, Plot, axes_of, legend, svg_of

COLUMNS = (
    "run",
    "unit",
    "epsilon spent",
    "epsilon allowed",
    "delta",
    "pass rate before",
    "after",
    "greedy after",
    "clients",
)


def rows(runs: Sequence[RunFacts]) -> list[tuple[str, ...]]:
    """One row for each run, under COLUMNS."""
    return [_row(run) for run in runs]


def all_plots(runs: Sequence[RunFacts]) -> list[Plot]:
    """Pass rate over rounds, and final pass rate against epsilon."""
    return [_curves(runs), _frontier(runs)]


def _row(run: RunFacts) -> tuple[str, ...]:
    claims, summary = run.statement["claims"], run.summary
    budget = ("none", "none", "-")
    if claims is not None:
        server = claims["server"]
        budget = (f"{server['epsilon_spent']:.3g}", f"{server['epsilon']:.3g}", f"{server['delta']:g}")
    rates = (summary["pass_rate.initial"], summary["pass_rate.final"], summary["pass_rate.greedy_final"])
    return (run.name, run.statement["unit"], *budget, *(f"{rate:.1%}" for rate in rates), str(summary["clients"]))


def _curves(runs: Sequence[RunFacts]) -> Plot:
    figure, axes = axes_of("round", "pass rate, sampled")
    points: list[tuple[str, ...]] = []
    for run in runs:
        rounds, values = run.series("pass_rate")
        start = run.summary["pass_rate.initial"]
        axes.plot([0, *rounds], [start, *values], marker="o", label=run.name)
        points += [(run.name, str(r), f"{v:.3f}") for r, v in zip([0, *rounds], [start, *values], strict=True)]
    legend(axes)
    caption = "Pass rate on the public evaluation set of each run."
    return Plot("curves", "Learning", caption, svg_of(figure), ("run", "round", "pass rate"), tuple(points))


def _frontier(runs: Sequence[RunFacts]) -> Plot:
    """Runs without privacy stand at the right edge: their epsilon has no finite value."""
    figure, axes = axes_of("epsilon spent against the server", "pass rate after training")
    private = [run for run in runs if run.private]
    spent = [run.statement["claims"]["server"]["epsilon_spent"] for run in private]
    axes.plot(spent, [run.summary["pass_rate.final"] for run in private], "o", color=BLUE, label="private")
    for run, epsilon in zip(private, spent, strict=True):
        axes.annotate(run.name, (epsilon, run.summary["pass_rate.final"]), textcoords="offset points", xytext=(6, 4))
    for run in runs:
        if not run.private:
            axes.axhline(run.summary["pass_rate.final"], color=ORANGE, linestyle="--", label=f"{run.name}: no privacy")
    if runs:
        legend(axes)
    points = tuple((row[0], row[2], row[6]) for row in rows(runs))
    caption = "Utility against privacy: further left protects more, higher learned more."
    return Plot(
        "frontier", "Privacy and utility", caption, svg_of(figure), ("run", "epsilon spent", "pass rate"), points
    )
