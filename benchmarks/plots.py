"""The plots that pages on learning show, from the same result files as their tables."""

from pathlib import Path

import claims
import record
from claims import CHANGING, EPSILONS, STRESS, Lines


def epsilon(lines: Lines, path: Path) -> None:
    """Gains over epsilon: the federation and a trusted server."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), sharex=True)
    rows = EPSILONS[::-1]
    for panel, name in zip(panels, ("sampled", "greedy"), strict=True):
        for shift, server, label in ((-0.04, "secure", "secure aggregation"), (0.04, "plain", "trusted server")):
            found = [claims.found(lines, row.trials(server=server), f"{name}_gain") for row in rows]
            places = [place for place, values in enumerate(found) if len(values) > 1]
            ranges = [record.interval(list(found[place].values())) for place in places]
            reach = [each["high"] - each["mean"] for each in ranges]
            where, middle = [place + shift for place in places], [each["mean"] for each in ranges]
            panel.errorbar(where, middle, yerr=reach, marker="o", ms=3, lw=1, capsize=2, label=label)
        panel.axhline(0, color="grey", lw=0.8)
        panel.set_title(f"gain in pass rate, {name} (points)", fontsize=9)
        panel.set_xticks(range(len(rows)), [row.name for row in rows])
        panel.set_xlabel("epsilon against the server, delta 1e-5", fontsize=8)
    panels[0].legend(fontsize=7)
    _save(figure, path)


def weights(lines: Lines, path: Path) -> None:
    """Mean weights over the rounds, by kind of client."""
    from matplotlib import pyplot

    rows = (*STRESS, *CHANGING[1:3])
    figure, panels = pyplot.subplots(1, len(rows), figsize=(11, 3.0), sharey=True)
    for panel, row in zip(panels, rows, strict=True):
        runs = [lines[trial]["weights"] for trial in row.trials() if trial in lines]
        for kind in runs[0] if runs else ():
            rounds = zip(*(run[kind] for run in runs), strict=True)
            panel.plot([sum(each) / len(each) for each in rounds], label=kind, lw=1.2)
        panel.set_title(row.name, fontsize=8)
        panel.set_xlabel("round", fontsize=8)
        panel.set_ylim(0.45, 1.02)
    panels[0].set_ylabel("mean weight", fontsize=8)
    panels[0].legend(fontsize=7)
    _save(figure, path)


def _save(figure: object, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "fgrpo_secure"  # the same bytes for the same figures
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
