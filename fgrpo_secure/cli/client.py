"""`fgrpo client`: an organisation's own client, by its folder, which holds everything of it and nothing of others."""

import json
import os
import signal
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from fgrpo_secure import entropy
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.engines.https.unix_pipe import SCHEME, path_of
from fgrpo_secure.storage import invitation, owners_folder
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.run_directory import write_durably
from protocols.identity import Identity

client = typer.Typer(help="Be an organisation's own client.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The owner's folder.")]
Run = Annotated[str | None, typer.Option(help="The first digits of the run's identity, if several were joined.")]
LONGEST_END = 60.0  # seconds that a client may take to end


@client.callback()
def described() -> None:
    """Be an organisation's own client: its folder holds everything of it and nothing of anybody else."""


@client.command()
def new(
    folder: Folder,
    name: Annotated[str | None, typer.Option(help="Name on rosters. Default: the folder's.")] = None,
    task: Annotated[str | None, typer.Option(help="A procedural task to train on, such as add.")] = None,
    data: Annotated[Path | None, typer.Option(help="A JSON Lines file to train on; needs --reward.")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="A reward: FILE.py:FUNCTION, or a built-in.")] = None,
    subject: Annotated[str | None, typer.Option(help="Column that says whom a row is about.")] = None,
) -> None:
    """Make the folder with a secret key, a policy and client.toml, and print the enrolment line for the authority."""
    from fgrpo_secure.client import enrolling
    from fgrpo_secure.config import own_file
    from fgrpo_secure.config.files import parse_as

    with one_sentence():
        rewards = None if not reward else [_absolute(spec) for spec in reward]
        table = {"task": task, "data": None if data is None else str(data.resolve()), "subject": subject}
        told = {"name": name or folder.resolve().name, "data": {**table, "reward": rewards}}
        own = parse_as(own_file.OwnFile, told, "fgrpo client new")
        own_file.check(own, "fgrpo client new")
        made = enrolling.enrol(folder, own, entropy.OsEntropy())
        line = enrolling.line(made)
    typer.echo(line)


@client.command()
def show(folder: Folder) -> None:
    """Print the enrolment line again, with the present key."""
    from fgrpo_secure.client import enrolling

    with one_sentence():
        line = enrolling.line(ClientFolder.open(folder))
    typer.echo(line)


@client.command()
def join(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="INVITATION", help="The invitation that the server handed out.")],
    yes: Annotated[bool, typer.Option("--yes", help="Agree without being asked.")] = False,
) -> None:
    """Show what a run is and what the owner's policy says of it; agree once, and it is pinned."""
    from fgrpo_secure.client import joining, offer_in_words

    with one_sentence():
        own = ClientFolder.open(folder)
        offer = joining.examine(own, invitation.read(file))
        for line in offer_in_words.lines(offer):
            typer.echo(line)
        if offer.objection is None and not yes and not typer.confirm("Take part in this run?"):
            typer.echo("nothing was changed")
            raise typer.Exit(1)
        joining.join(own, offer, file)
    typer.echo(f"joined; `fgrpo client try {folder}` tries your data")


@client.command(name="try")
def attempt(folder: Folder, run: Run = None) -> None:
    """Load the model and the owner's data, call each reward once, and say what would fail. Nothing is sent."""
    from fgrpo_secure.run import own_trial  # the model's libraries take seconds to import

    with one_sentence():
        own = ClientFolder.open(folder)
        said = own_trial.attempt(own, own.choose(run))
    typer.echo(said)


@client.command()
def start(
    folder: Folder,
    run: Run = None,
    pipe: Annotated[
        str | None,
        typer.Option(metavar="unix:PATH", help="The socket of a pipe of another user, in the place of HTTPS."),
    ] = None,
) -> None:
    """Take part in a run: dial out, wait for rounds, answer them. Ends with `stop`, Ctrl-C or SIGTERM."""
    with one_sentence():
        chosen = ClientFolder.open(folder).choose(run)
        through = () if pipe is None else (f"{SCHEME}{path_of(pipe)}",)
    # In place of this process: an idle client has no use for what a command line loads.
    module = "fgrpo_secure.engines.https.client_loop"
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, str(folder), chosen, *through])  # noqa: S606 - no shell


@client.command()
def status(folder: Folder) -> None:
    """Say which runs were joined, whether the client runs, and what the ledger shows."""
    from fgrpo_secure.ledger.store import Ledgers

    with one_sentence():
        own = ClientFolder.open(folder)
        running = own.is_claimed()
        typer.echo(f"{own.name}: {'runs' if running else 'does not run'}")
        for run in own.pinned():
            typer.echo(f"joined     {run} at {own.invitation(run).url}")
        for name, said in _told(own).items() if running else ():
            typer.echo(f"{name:10} {said}")
        if own.ledgers.is_file():
            with closing(Ledgers.read(own.ledgers)) as store:
                for ledger in map(store.existing, store.owners()):
                    spent, budget = float(ledger.spent()), float(ledger.budget())
                    typer.echo(f"ledger     spent {spent:.6g} of {budget:.6g} in {ledger.sessions()} sessions (mu^2)")


@client.command()
def watch(
    folder: Folder,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show the present state and end.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write it for TensorBoard as well, into DIR/tensorboard.")
    ] = False,
) -> None:
    """The owner's own rounds: rewards, lengths, entropy, KL, update against the clip, epsilon. Ends with Ctrl-C."""
    from fgrpo_secure.cli import client_watch

    with one_sentence():
        own = ClientFolder.open(folder)
        console = Console()
        with client_watch.events(own) if tensorboard else nullcontext(lambda: None) as write_events:
            write_events()
            if once:
                console.print(client_watch.view(own))
                return
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    live.update(client_watch.view(own), refresh=True)
                    entropy.sleep(interval)
                    write_events()


@client.command()
def stop(folder: Folder) -> None:
    """End the running client. Its books stay whole: `start` goes on where it was."""
    with one_sentence():
        own = ClientFolder.open(folder)
        if not own.is_claimed():
            raise ConfigError(f"no client runs for {folder}")
        try:
            os.kill(int(own.pid.read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            raise ConfigError(f"{own.pid} does not name the running client; end it by other means") from None
        started = entropy.stopwatch()
        while own.is_claimed():
            if entropy.stopwatch() - started > LONGEST_END:
                raise ConfigError(f"the client of {folder} did not end within {LONGEST_END:.0f} s")
            entropy.sleep(0.1)
    typer.echo("stopped")


@client.command()
def leave(folder: Folder, run: Run = None) -> None:
    """Take no further part in a run. What it cost stays in the ledger."""
    from fgrpo_secure.client import joining

    with one_sentence():
        own = ClientFolder.open(folder)
        chosen = own.choose(run)
        joining.leave(own, chosen)
    typer.echo(f"left run {chosen}")


@client.command()
def receipt(
    folder: Annotated[Path, typer.Argument(help="An owner's folder, or that of a trial's owners.")],
    owner: Annotated[str | None, typer.Option(help="Whose receipts, if the folder holds several owners.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write them to, one file a run. Default: print.")] = None,
) -> None:
    """What an owner can hold against a server: for each run, its account and the note that both signed last."""
    from fgrpo_secure.client.store import ClientStore

    with one_sentence():
        own = ClientFolder(folder)
        if own.is_one:
            state, name, number = own.state, own.name, (ClientFolder.open(folder).enrolled() or (0, b""))[0]
        else:
            place, found = owners_folder.ledger_of(folder, owner)
            state, name, number = place.with_name(owners_folder.STATE), str(owner), int(found)
        if not state.is_file():
            raise ConfigError(f"{folder} holds no receipt: its owner joined no run yet")
        with closing(ClientStore(state)) as store:
            kept = store.notes(Identity.from_seed(store.identity_seed(number)).public)
        if not kept:
            raise ConfigError(f"{folder} holds no receipt of {name!r}: it signed no ledger yet")
        for text in kept:
            if out is None:
                typer.echo(text, nl=False)
                continue
            out.mkdir(parents=True, exist_ok=True)
            path = out / f"receipt-{name}-{_run_of(text)}.txt"
            write_durably(path, text.encode())
            typer.echo(str(path))


def _absolute(spec: str) -> str:
    """A reward in a file, from wherever the command was typed."""
    file, separator, name = spec.rpartition(":")
    return f"{Path(file).resolve()}:{name}" if separator and file.endswith(".py") else spec


def _told(own: ClientFolder) -> dict[str, str]:
    """What the running client writes about itself; nothing if it wrote nothing that can be read."""
    try:
        told = json.loads(own.status.read_bytes())
        return {str(name): str(said) for name, said in told.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _run_of(text: str) -> str:
    """The run that a receipt is of: the last part of its ledger's name."""
    return text.splitlines()[1].rpartition("/")[2]
