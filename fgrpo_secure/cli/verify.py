"""`fgrpo verify`: check a run that somebody else made, from its files alone."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.cli.verified import check_directory, key, measured_again
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.storage.run_directory import RunDirectory


def verify(
    directory: Annotated[Path, typer.Argument(help="Run directory.")],
    authority: Annotated[str | None, typer.Option(help="The authority's public key (hex) that you know.")] = None,
    server: Annotated[str | None, typer.Option(help="The server's public key (hex) that you know.")] = None,
    witnessed: Annotated[
        list[Path] | None, typer.Option("--receipt", "--witnessed", help="What a client kept (repeatable).")
    ] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Measure pass rates again; loads the model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Check files, signatures, ledger, witnesses and claims of a finished run. Exit 1 at the first mismatch."""
    # Reading plans and accounting takes a moment to import; other commands need not wait.
    from fgrpo_secure.evidence import verdict
    from fgrpo_secure.evidence import verify as evidence

    with one_sentence(), ExitStack() as held:
        check_directory(directory)
        kept = tuple(witnessed or ())
        if absent := [path for path in kept if not path.is_file()]:
            raise ConfigError(f"{absent[0]} is not a file; --receipt takes what a client kept (`fgrpo client receipt`)")
        trust = evidence.Trust(key(authority, "--authority"), key(server, "--server"), kept)
        found = evidence.Evidence(RunDirectory(directory), trust, held)
        checks: list[tuple[str, str]] = []
        try:
            for name, said in evidence.steps(found):
                checks.append((name, said))
                if not as_json:
                    typer.echo(f"ok    {name}: {said}")
            if evaluate:
                checks.append(("evaluation", measured_again(found)))
                if not as_json:
                    typer.echo(f"ok    evaluation: {checks[-1][1]}")
        except evidence.Mismatch as mismatch:
            if as_json:
                _print_json(checks, {"check": mismatch.check, "reason": mismatch.reason})
            typer.echo(f"fgrpo: {directory} does not verify: {mismatch}", err=True)
            raise typer.Exit(1) from None
        lines = verdict.lines(found, evaluate)
        if as_json:
            unchecked = [name for name in evidence.UNCHECKED if (directory / name).is_file()]
            _print_json(checks, None, asserted=found.asserted, unchecked=unchecked, verdict=list(lines))
            return
        typer.echo(f"{directory} verifies.")
        for line in lines:
            typer.echo(line)


def _print_json(checks: list[tuple[str, str]], mismatch: dict[str, str] | None, **more: object) -> None:
    listed = [{"check": name, "found": said} for name, said in checks]
    facts = {"verifies": mismatch is None, "checks": listed, "mismatch": mismatch, **more}
    typer.echo(json.dumps(facts, indent=2, allow_nan=False))
