"""`fgrpo attack`: run the attacks in front of whoever wants to see them fail."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from fgrpo_secure import __version__

if TYPE_CHECKING:
    from fgrpo_secure.evidence.attacks import Trial
    from threat_model.attack import Attack
    from threat_model.campaign import Result

WIDTH = 160  # of the table where no terminal says how wide it is


def attack(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Attacks to run; all if none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    show: Annotated[bool, typer.Option("--list", help="List the attacks and run none.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Run directory whose report shall show the results: kept there as attacks.json.")
    ] = None,
    differences: Annotated[
        bool, typer.Option("--diff", help="Also show how each weakened copy differs from ours.")
    ] = False,
) -> None:
    """Run attacks against ours and against weakened copies; exit 1 if one succeeds on ours or fails on its copy."""
    # What attacks need takes seconds to import; other commands and the list of all need not wait.
    from fgrpo_secure.evidence import attacks
    from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError
    from threat_model import registry
    from threat_model.weakened import CannotWeaken

    try:
        chosen = [registry.named(name) for name in dict.fromkeys(names or [])] or list(registry.ATTACKS)
        if show:
            _show_list(chosen)
            return
        if out is not None:
            RunDirectory(out).require()
        results = _run(chosen)
        if out is not None:
            attacks.keep(RunDirectory(out), __version__, [_trial(result) for result in results])
    except (registry.UnknownAttack, CannotWeaken, RunDirectoryError) as problem:
        typer.echo(f"fgrpo: {problem}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps([_record(result) for result in results], indent=2, allow_nan=False))
    else:
        _show_table(results, differences)
    if not all(result.holds for result in results):
        raise typer.Exit(1)


def _trial(result: "Result") -> "Trial":
    from fgrpo_secure.evidence.attacks import Trial  # see above

    return Trial(result.attack, result.adversary, result.ours, result.weakened, result.evidence_ours)


def _run(chosen: "Sequence[Attack]") -> "list[Result]":
    from threat_model import campaign  # see above

    console, done = Console(stderr=True), 0

    def finished(result: "Result") -> None:
        nonlocal done
        done += 1
        console.print(
            f"{done}/{len(chosen)} {result.attack}: ours {result.ours.value}, weakened copy {result.weakened.value}",
            highlight=False,
            soft_wrap=True,
        )

    return campaign.run(chosen, finished)


def _record(result: "Result") -> dict[str, object]:
    return {
        "attack": result.attack,
        "adversary": result.adversary,
        "ours": result.ours.value,
        "weakened": result.weakened.value,
        "evidence": {
            "ours": result.evidence_ours,
            "weakened": result.evidence_weakened,
            "diff": result.diff,
            "figures": {"ours": dict(result.figures_ours), "weakened": dict(result.figures_weakened)},
        },
        "seconds": round(result.seconds, 3),
    }


def _show_list(chosen: "Sequence[Attack]") -> None:
    width = max(len(attack.name) for attack in chosen)
    for attack in chosen:
        typer.echo(f"{attack.name:{width}}  {attack.adversary}: {attack.claim}")


def _show_table(results: "Sequence[Result]", differences: bool) -> None:
    table = Table("attack", "adversary", "ours", "weakened copy", Column("evidence", ratio=1), "seconds", expand=True)
    for result in results:
        evidence = f"ours: {result.evidence_ours}\nweakened: {result.evidence_weakened}"
        table.add_row(
            result.attack, result.adversary, result.ours.value, result.weakened.value, evidence, f"{result.seconds:.2f}"
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table, highlight=False, markup=False)
    if differences:
        for result in results:
            console.print(f"\n{result.attack}\n{result.diff}", highlight=False, markup=False, soft_wrap=True)
    good = sum(result.holds for result in results)
    console.print(f"{good} of {len(results)} attacks failed on ours and succeeded on their weakened copies.")
