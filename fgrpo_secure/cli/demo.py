"""`fgrpo demo`: the quickstart and its twin without differential privacy, and what they came to in plain words."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fgrpo_secure import config_file, training
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.cli.progress import Progress
from fgrpo_secure.run_directory import RunDirectory

PRIVATE, TWIN = "quickstart", "quickstart-no-dp"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for both runs; earlier demo runs in it are replaced.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Run the quickstart and its twin, then say what was learned, protected and paid."""
    summaries = {}
    with one_sentence():
        for preset in (PRIVATE, TWIN):
            directory = RunDirectory(out / preset)
            for leftover in (directory.root, directory.owners):
                shutil.rmtree(leftover, ignore_errors=True)
            with Progress(Console(stderr=True)) as progress:
                training.start(config_file.load(preset), directory, progress)
            summaries[preset] = json.loads(directory.summary.read_text())
    for line in story(summaries[PRIVATE], summaries[TWIN], out):
        typer.echo(line)


def story(private: dict[str, Any], twin: dict[str, Any], out: Path) -> list[str]:
    """The closing lines, made from the two summaries and nothing else."""
    hours = private["seconds.training"] + private["seconds.rollouts"] + private["seconds.aggregation"]
    share = private["seconds.aggregation"] / hours
    return [
        "",
        (
            f"Learned     {private['clients']} clients, {private['rounds']} rounds, problems nobody trained on: "
            f"{_rates(private)}."
        ),
        (
            f"Protected   The server saw sums over at least {private['aggregation.minimum_survivors']} clients, never one "
            f"client's update, weight, gain or reward. Whatever it does with them, it can tell whether one client's data "
            f"was used at all at most as well as (epsilon = {private['privacy.epsilon_server']:.2f}, "
            f"delta = {private['privacy.delta']:g}) allows: odds shift by at most a factor "
            f"e^{private['privacy.epsilon_server']:.2f}, but for a chance of {private['privacy.delta']:g}. "
            f"Spent: {private['privacy.epsilon_spent']:.2f}."
        ),
        (
            f"Cost        {private['seconds.total']:.0f} s; {share:.0%} of all processor time went into privacy and "
            f"aggregation; {private['bytes.up_per_client_per_round'] / 1e3:.1f} kB up and "
            f"{private['bytes.down_per_client_per_round'] / 1e3:.1f} kB down per client and round. Without differential "
            f"privacy the same run reached: {_rates(twin)}."
        ),
        (
            f"Not shown   All clients ran in this process on one machine. The server was assumed "
            f"{private['aggregation.adversary'].replace('_', ' ')}, with up to {private['aggregation.colluders']} clients "
            f"on its side."
        ),
        "Next        fgrpo plan quickstart --set privacy.epsilon=2",
        f"            fgrpo run silos --out {out.parent / 'silos'}",
    ]


def _rates(summary: dict[str, Any]) -> str:
    return (
        f"sampled {summary['pass_rate.initial']:.1%} -> {summary['pass_rate.final']:.1%}, "
        f"greedy {summary['pass_rate.greedy_initial']:.1%} -> {summary['pass_rate.greedy_final']:.1%}"
    )
