"""`fgrpo demo`: the quickstart and its twin without differential privacy, and what they came to in plain words."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.cli.progress import Progress
from fgrpo_secure.config import files as config_file
from fgrpo_secure.storage.run_directory import RunDirectory

PRIVATE, TWIN = "quickstart", "quickstart-no-dp"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for both runs; earlier demo runs in it are replaced.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Run the quickstart and its twin, then say what was learned, protected and paid."""
    from fgrpo_secure.run import training  # the model's libraries take seconds to import; other commands need not wait

    summaries = {}
    with one_sentence():
        for preset in (PRIVATE, TWIN):
            directory = RunDirectory(out / preset)
            for leftover in (directory.root, directory.owners, directory.private):
                shutil.rmtree(leftover, ignore_errors=True)
            directory.simulation.unlink(missing_ok=True)
            with Progress(Console(stderr=True)) as progress:
                training.start(config_file.load(preset), directory, progress)
            summaries[preset] = json.loads(directory.summary.read_text())
    measured = json.loads(RunDirectory(out / PRIVATE).simulation.read_text())
    for line in story(summaries[PRIVATE], summaries[TWIN], measured["rounds"], out):
        typer.echo(line)


def story(private: dict[str, Any], twin: dict[str, Any], rounds: list[dict[str, Any]], out: Path) -> list[str]:
    """The closing lines, made from the two summaries, and from `rounds`, the times that only one machine can know."""
    return [
        "",
        f"Learned     {_learned(private)}",
        f"Protected   {_protected(private)}",
        f"Cost        {_cost(private, twin, rounds)}",
        f"Not shown   {_not_shown(private)}",
        "Next        fgrpo plan quickstart --set privacy.epsilon=2",
        f"            fgrpo run silos --out {out.parent / 'silos'}",
    ]


def _learned(private: dict[str, Any]) -> str:
    who = f"{private['clients']} clients in {private['rounds']} rounds"
    return f"{who}, measured on problems that nobody trains on: {_rates(private)}."


def _protected(private: dict[str, Any]) -> str:
    epsilon, delta = private["privacy.epsilon_spent"], private["privacy.delta"]
    saw = f"the server saw sums over at least {private['aggregation.minimum_survivors']} clients, never one client's"
    odds = f"shift the odds of any guess about one client by more than a factor of e^{epsilon:.2f}"
    return (
        f"{saw} update, weight, gain or reward. Nothing it does with them can {odds} (epsilon = {epsilon:.2f} spent of "
        f"{private['privacy.epsilon_server']:.2f}), but for a chance of {delta:g} (delta)."
    )


def _cost(private: dict[str, Any], twin: dict[str, Any], rounds: list[dict[str, Any]]) -> str:
    protocol = private["seconds.aggregation"] + sum(each["privacy_total"] for each in rounds)
    share = protocol / (protocol + sum(each["training_total"] for each in rounds))
    seconds = sum(each["seconds"] for each in rounds)
    up, down = private["bytes.up_per_client_per_round"] / 1e3, private["bytes.down_per_client_per_round"] / 1e3
    return (
        f"{seconds:.0f} s, {share:.0%} of the processor time for privacy and aggregation; {up:.0f} kB "
        f"up and {down:.0f} kB down per client and round. Without differential privacy the twin reached {_rates(twin)}."
    )


def _not_shown(private: dict[str, Any]) -> str:
    server = private["aggregation.adversary"].replace("_", " ")
    return (
        f"all clients ran on this machine, where whoever runs it can read everything. The server was assumed {server}, "
        f"with up to {private['aggregation.colluders']} clients on its side."
    )


def _rates(summary: dict[str, Any]) -> str:
    return (
        f"sampled {summary['pass_rate.initial']:.1%} -> {summary['pass_rate.final']:.1%}, "
        f"greedy {summary['pass_rate.greedy_initial']:.1%} -> {summary['pass_rate.greedy_final']:.1%}"
    )
