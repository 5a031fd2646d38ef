"""`fgrpo run`: a whole federation, from a configuration to a run directory."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.cli.progress import Progress
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.run.interruption import Interrupted, interruptible
from fgrpo_secure.storage.run_directory import RunDirectory

RESUME_KEEPS = "a resumed run keeps its own configuration; drop CONFIG, --set, --out and --owners"


def run(
    config: Annotated[
        str | None, typer.Argument(help="Preset name or TOML file. Default: fgrpo.toml here, else quickstart.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/<run.name>.")] = None,
    owners: Annotated[
        Path | None, typer.Option(help="Folder of the data owners, with their policies and ledgers; later runs add up.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this directory.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="An event per line as JSON on standard output: started, round, ended.")
    ] = False,
) -> None:
    """Train one adapter over all clients of a configuration. Ctrl-C or SIGTERM ends it (exit code 130 or 143): a run
    that was ended, or that crashed, goes on with --resume.
    """
    from fgrpo_secure.run import training  # the model's libraries take seconds to import; other commands need not wait

    directory: RunDirectory | None = None
    try:
        with interruptible(), one_sentence(), _progress(as_json) as progress:
            if resume is not None:
                if config is not None or overrides or out is not None or owners is not None:
                    raise ConfigError(RESUME_KEEPS)
                directory = RunDirectory(resume)
                directory.require()
                training.resume(directory, progress)
            else:
                shared = [] if owners is None else [f"engine.owners={json.dumps(str(owners.resolve()))}"]
                loaded = config_file.load(config or config_file.default(), [*(overrides or []), *shared])
                directory = RunDirectory(out or Path("runs") / loaded.run.name)
                training.start(loaded, directory, progress)
    except Interrupted as interruption:
        typer.echo(f"fgrpo: {interruption}: {_left_by_interruption(directory)}", err=True)
        raise typer.Exit(interruption.exit_code) from None
    _close(directory, as_json)


def _progress(as_json: bool) -> Progress:
    return Progress(Console(stderr=True), typer.echo if as_json else None)


def _left_by_interruption(directory: RunDirectory | None) -> str:
    if directory is None or not directory.config.exists():
        return "nothing was made yet"
    return f"the open round is given up, finished ones are kept; go on with: fgrpo run --resume {directory.root}"


def _close(directory: RunDirectory, as_json: bool) -> None:
    """Say where the run is, and what nobody may overlook in it. Exit 1 if it ended before its last round."""
    summary = json.loads(directory.summary.read_text())
    if as_json:
        _progress(as_json).event("ended", directory=str(directory.root), summary=summary)
    else:
        if summary["reproducible_entropy"]:
            typer.echo("not private: keys and noise came from a seed (run.entropy = 'seeded')")
        typer.echo(f"{directory.root}: adapter/, summary.json, metrics.jsonl, ledger.sqlite")
    if summary["stopped"] is not None:
        typer.echo(f"fgrpo: the run stopped after round {summary['rounds']}: {summary['stopped']}", err=True)
        raise typer.Exit(1)
