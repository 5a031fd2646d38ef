"""`fgrpo watch`: a live view of a run that another process conducts, from its metrics alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fgrpo_secure import entropy
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config import files as config_file
from fgrpo_secure.storage.run_directory import RunDirectory

SHOWN = 12  # newest rounds in the table
BARS = "▁▂▃▄▅▆▇█"


def watch(
    directory: Annotated[Path, typer.Argument(help="Run directory.")],
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show the present state and end.")] = False,
) -> None:
    """Show rounds, budget and cohort of a running federation. Ends when the run does, or with Ctrl-C. Exit 1 if the run
    ended before its last round.
    """
    with one_sentence():
        run = RunDirectory(directory)
        run.require()
        config = config_file.load(str(run.config))
        console = Console()
        if once:
            console.print(view(run, config.run.name, config.federation.rounds, config.privacy.epsilon))
            return
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(view(run, config.run.name, config.federation.rounds, config.privacy.epsilon), refresh=True)
                if run.summary.exists():
                    return
                if not run.is_claimed():
                    break
                entropy.sleep(interval)
    typer.echo(f"fgrpo: nobody conducts this run any more; go on with: fgrpo run --resume {run.root}", err=True)
    raise typer.Exit(1)


def view(run: RunDirectory, name: str, rounds: int, budget: float | None) -> RenderableType:
    """What a run's files show now. Half-written lines are left out until they are whole."""
    metrics = _metrics(run)
    done = len(metrics)
    going = "running" if done else "before its first round"
    state = "finished" if run.summary.exists() else going if run.is_claimed() else "ended before its last round"
    parts: list[RenderableType] = [Text(f"{name}: {state}, round {done} of {rounds}")]
    parts.append(ProgressBar(total=rounds, completed=done, width=60))
    spent = metrics[-1].get("epsilon_spent") if metrics else None
    if spent is not None:
        allowed = f" of {budget:g}" if budget is not None else ""
        parts.append(Text(f"epsilon spent {spent:.3f}{allowed}"))
    elif metrics:
        parts.append(Text("no differential privacy"))
    rates = [line["pass_rate"] for line in metrics if line.get("pass_rate") is not None]
    if rates:
        parts.append(Text(f"pass rate {rates[-1]:.3f}  {sparkline(rates)}"))
    parts.append(_table(metrics[-SHOWN:]))
    return Group(*parts)


def sparkline(values: Sequence[float]) -> str:
    """One block character a value, the lowest to the highest of them."""
    low, high = min(values), max(values)
    width = high - low or 1.0
    return "".join(BARS[min(len(BARS) - 1, int((value - low) / width * len(BARS)))] for value in values)


def _metrics(run: RunDirectory) -> list[dict[str, Any]]:
    try:
        return run.read_metrics()
    except (FileNotFoundError, json.JSONDecodeError):
        return []


def _table(lines: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("round", "in the sum", "dropped", "failed sessions", "epsilon", "kB up", "server s")
    for line in lines:
        spent = line.get("epsilon_spent")
        table.add_row(
            str(line["round"]),
            str(line["survivors"]),
            str(line["dropped"]),
            str(line["failed_sessions"]),
            "-" if spent is None else f"{spent:.3f}",
            f"{line['bytes_up_per_client'] / 1000:.1f}",
            f"{line['seconds_server']:.1f}",
        )
    return table
