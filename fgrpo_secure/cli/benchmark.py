"""`fgrpo benchmark`: privacy against utility, on a user's own model, tasks and rewards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.cli.progress import Progress
from fgrpo_secure.config import files as config_file
from fgrpo_secure.run.interruption import Interrupted, interruptible


def benchmark(
    config: Annotated[
        str | None, typer.Argument(help="Preset name or TOML file. Default: fgrpo.toml here, else quickstart.")
    ] = None,
    epsilon: Annotated[
        list[str] | None,
        typer.Option(help="A budget to try, or none for no privacy; give it several times. Default: as configured."),
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="A weighting rule to try, such as history or uniform. Default: its own.")
    ] = None,
    same_step: Annotated[
        bool,
        typer.Option("--same-step", help="One server's step for all budgets, rather than one for each one's noise."),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with run.seed from 1 on.")] = 3,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting of all runs.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for all runs and the table; what is finished in it is kept.")
    ] = Path("runs/benchmark"),
) -> None:
    """Run a configuration at several budgets and weights, over several seeds. Prints what each learns."""
    from fgrpo_secure.run import benchmark as measured  # torch takes seconds; other commands need not wait

    try:
        with interruptible(), one_sentence(), Progress(Console(stderr=True)) as progress:
            budgets = [measured.budget(each) for each in epsilon or ()]
            source, cells = config or config_file.default(), measured.cells(budgets, rule or ())
            planned = measured.planned(source, overrides or [], cells, seeds, out, same_step)
            found = planned.run(progress)
            total = measured.spent(found)
    except Interrupted as interruption:
        typer.echo(f"fgrpo: {interruption}: finished runs are kept; the same command goes on", err=True)
        raise typer.Exit(interruption.exit_code) from None
    for said in story(found, total, planned.unfinished()):
        typer.echo(said)
    typer.echo(f"{out / measured.RESULT}; draw it: fgrpo report {out}/*-seed-*")


def story(found: Mapping[str, Any], total: tuple[float, float] | None, unfinished: int = 0) -> list[str]:
    """The table, and what all runs together cost."""
    rows = [("epsilon", "weights", "step", "sampled", "greedy", "runs")]
    for cell in found["cells"]:
        runs = cell["runs"]
        early = sum(run["stopped"] is not None for run in runs)
        rows.append(
            (
                "as configured" if cell["epsilon"] is None else str(cell["epsilon"]).removesuffix(".0"),
                cell["rule"] or "as configured",
                f"{runs[0]['step']:g}",
                _gain(cell["sampled"]),
                _gain(cell["greedy"]),
                f"{len(runs)}" + (f", {early} ended early" if early else ""),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, "Gains in points, mean and 95 % interval over seeds.", _together(found, total, unfinished)]


def _gain(found: Mapping[str, float | None]) -> str:
    if found["low"] is None:
        return f"{found['mean']:+.1f}"
    return f"{found['mean']:+.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def _together(found: Mapping[str, Any], total: tuple[float, float] | None, unfinished: int) -> str:
    if total is None:
        return "Runs without differential privacy have no bound: show figures made on private rows to nobody."
    count = sum(len(cell["runs"]) for cell in found["cells"])
    more = f"; {unfinished} more began, and spent too" if unfinished else ""
    return f"All {count} runs together spent epsilon {total[0]:.4g} at delta {total[1]:.2g} on the same data{more}."
