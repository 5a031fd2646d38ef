"""`fgrpo server`: conduct a run whose clients are organisations on machines of their own."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fgrpo_secure.cli import several_servers
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.cli.progress import Progress
from fgrpo_secure.cli.verified import public_key
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.run.interruption import Interrupted, interruptible
from fgrpo_secure.storage.run_directory import RunDirectory

server = typer.Typer(help="Conduct a run whose clients have machines of their own.", no_args_is_help=True)
Place = Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")]


@server.callback()
def described() -> None:
    """Conduct a run whose clients have machines of their own."""


@server.command()
def new(
    config: Annotated[str, typer.Argument(help="TOML file with engine.kind = 'https' and no client tables.")],
    authority: Annotated[str, typer.Option(help="The public key (hex) of the authority that signs rosters.")],
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/<run.name>.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
    ] = None,
) -> None:
    """Make the run directory and the server's secret key beside it, and print the public key."""
    from fgrpo_secure.run import founding  # accounting takes a moment to import; other commands need not wait

    with one_sentence():
        loaded = config_file.load(config, overrides or [])
        directory = RunDirectory(out or Path("runs") / loaded.run.name)
        typer.echo(founding.found(loaded, directory, public_key(authority, "--authority")).hex())


@server.command()
def invite(
    place: Place,
    url: Annotated[
        str, typer.Option(help="Where clients reach the server: https://HOST[:PORT], or pipe: over pipes alone.")
    ],
    roster: Annotated[
        Path | None, typer.Option(help="The roster that the authority signed; needed the first time.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) to check the server by. Default: public authorities.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write. Default: DIR.invitation.json.")] = None,
) -> None:
    """Write the invitation file that every organisation is handed. The first one begins the run."""
    from fgrpo_secure.run import founding  # accounting takes a moment to import; other commands need not wait

    with one_sentence():
        signed = None if roster is None else _bytes(roster)
        address = founding.Address(url, None if ca is None else _bytes(ca).decode("ascii", "replace"))
        directory = RunDirectory(place)
        path = out or directory.root.with_name(f"{directory.root.name}.invitation.json")
        made = founding.invite(directory, signed, address, path)
        missing = founding.too_few(directory, made)
    typer.echo(f"{path}: run {made.run}, server {made.server}, authority {made.authority}")
    if missing is not None:
        typer.echo(f"fgrpo: no further round can be held under this roster: {missing}", err=True)


@server.command()
def start(
    place: Place,
    certificate: Annotated[
        Path | None, typer.Option(help="The server's certificate with its chain (PEM); needed without --pipe.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's secret key (PEM); needed without --pipe.")] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "0.0.0.0:443",
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where Prometheus may ask for sums. Default: nowhere.")
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(help="Let in only who has a certificate that one of these signed (PEM), before anything else."),
    ] = None,
    pipe: Annotated[
        str | None,
        typer.Option(metavar="unix:PATH", help="Where a pipe brings all requests, in the place of HTTPS: a socket."),
    ] = None,
    worker: Annotated[
        str | None, typer.Option(metavar="I/N", help="Be one of N workers: listen, and conduct shards' sessions.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Coordinate N workers: keep books and model, listen nowhere.")
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option(help="File with the connection string of PostgreSQL in which coordinator and workers meet."),
    ] = None,
) -> None:
    """Conduct the run: begin, or go on after a stop or a crash. Ends with the run, `drain`, Ctrl-C or SIGTERM."""
    try:
        with interruptible(), one_sentence(), Progress(Console(stderr=True)) as progress:
            directory = _founded(place)
            if workers is not None:
                several_servers.refuse_place(worker, certificate, key, client_ca, pipe, metrics)
                several_servers.coordinate(directory, workers, database, progress)
                return
            pair = _certificate(certificate, key, client_ca, pipe)
            where = several_servers.Where(listen, pipe, pair, metrics, client_ca)
            several_servers.begin(directory, where, worker, database, progress)
    except Interrupted as interruption:
        typer.echo(f"fgrpo: {interruption}: the open round is given up; `start` goes on after the last one", err=True)
        raise typer.Exit(interruption.exit_code) from None


@server.command()
def status(place: Place) -> None:
    """Say what the server does, in aggregates: nothing about any one client."""
    with one_sentence():
        directory = _founded(place)
        running = directory.is_claimed()
        told = _told(directory)
        done = len(directory.read_metrics()) if directory.metrics.exists() else 0
        rounds = config_file.load(str(directory.config)).federation.rounds
    typer.echo(f"{'runs' if running else 'does not run'}: {done} of {rounds} rounds are done")
    for name, said in told.items() if running else ():
        typer.echo(f"{name:10} {said}")
    if directory.drain.exists():
        typer.echo("drains: no round after the open one begins")


@server.command()
def drain(place: Place, undo: Annotated[bool, typer.Option("--undo", help="Let rounds begin again.")] = False) -> None:
    """End the server after the open round; it goes on later where it was."""
    with one_sentence():
        directory = _founded(place)
        if undo:
            directory.drain.unlink(missing_ok=True)
        else:
            directory.drain.touch(mode=0o600)
    typer.echo("rounds may begin" if undo else "no round after the open one begins; `--undo` takes that back")


def _certificate(
    certificate: Path | None, key: Path | None, client_ca: Path | None, pipe: str | None
) -> tuple[Path, Path] | None:
    """(certificate, key) for TLS; None with a pipe, which has none. ConfigError where they do not go together."""
    if pipe is not None:
        if (certificate, key, client_ca) != (None, None, None):
            raise ConfigError("a pipe has no TLS: give --pipe, or --certificate with --key (and --client-ca)")
        return None
    if certificate is None or key is None:
        raise ConfigError("give --certificate and --key, for HTTPS; or --pipe unix:PATH")
    return certificate, key


def _founded(place: Path) -> RunDirectory:
    directory = RunDirectory(place)
    directory.require()
    if not directory.authority.exists():
        raise ConfigError(f"{place} is a trial on one machine, not a server's run; `fgrpo server new` makes one")
    return directory


def _told(directory: RunDirectory) -> dict[str, str]:
    """What the running server writes about itself; nothing if it wrote nothing that can be read."""
    try:
        told = json.loads(directory.status.read_bytes())
        return {str(name): str(said) for name, said in told.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None
