"""`fgrpo ledger`: look at a budget ledger, check it, prove an entry of it, and take it elsewhere."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.ledger.store import Ledger, Ledgers
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.run_directory import RunDirectory

app = typer.Typer(help="Show, verify, prove or export a budget ledger.", no_args_is_help=True)
Place = Annotated[Path, typer.Argument(help="Run directory, a folder of data owners, or a ledger file.")]
Owner = Annotated[str | None, typer.Option(help="Whose ledger, if there are several.")]


@app.command()
def show(place: Place, owner: Owner = None) -> None:
    """Every session with its charge, and the budget."""
    with _opened(place, owner) as ledger:
        table = Table("entry", "kind", "round", "session", "survivors", "charge (mu^2)")
        for entry in ledger.entries():
            charge = entry.get("charge", entry.get("budget", "0/1"))
            table.add_row(
                str(entry["position"]),
                str(entry["kind"]),
                str(entry.get("round", "")),
                str(entry.get("session", ""))[:16],
                str(entry.get("survivors", "")),
                f"{float(Fraction(str(charge))):.6g}",
            )
        Console().print(table)
        spent, budget = float(ledger.spent()), float(ledger.budget())
        typer.echo(f"{ledger.owner}: spent {spent:.6g} of {budget:.6g}, {len(ledger.open_sessions())} sessions open")
        typer.echo(f"{ledger.size()} entries, root {ledger.root().hex()}")


@app.command()
def verify(place: Place, owner: Owner = None) -> None:
    """Derive every entry again from those before it; exit 1 where one does not follow."""
    with _opened(place, owner) as ledger:
        ledger.verify()
        typer.echo(f"{ledger.owner}: {ledger.size()} entries verify, root {ledger.root().hex()}")


@app.command()
def prove(
    place: Place,
    position: Annotated[int, typer.Argument(min=0, help="Entry, counted from 0.")],
    owner: Owner = None,
) -> None:
    """Print an entry with its inclusion proof (RFC 6962) under the ledger's root, as JSON."""
    with _opened(place, owner) as ledger:
        try:
            content, path = ledger.prove(position)
        except IndexError:
            raise ConfigError(
                f"entry {position} does not exist; {ledger.owner!r} has entries 0 to {ledger.size() - 1}"
            ) from None
        proof = {
            "owner": ledger.owner,
            "position": position,
            "size": ledger.size(),
            "root": ledger.root().hex(),
            "entry": content.decode(),
            "path": [node.hex() for node in path],
        }
        typer.echo(json.dumps(proof, indent=2))


@app.command()
def export(
    place: Place, out: Annotated[Path, typer.Argument(help="JSON Lines file to write.")], owner: Owner = None
) -> None:
    """Write the entries, one canonical JSON object a line, then a line with size and root."""
    with _opened(place, owner) as ledger:
        if out.exists():
            raise ConfigError(f"{out} exists already; choose another file")
        lines = [row.content.decode() for row in ledger.rows()]
        end = {"size": ledger.size(), "root": base64.b64encode(ledger.root()).decode()}
        out.write_text("\n".join([*lines, json.dumps(end)]) + "\n")
        typer.echo(f"{out}: {len(lines)} entries of {ledger.owner!r}")


@contextmanager
def _opened(place: Path, owner: str | None) -> Iterator[Ledger]:
    """The ledger to read; another process may be writing to it."""
    with one_sentence():
        path = RunDirectory(place).ledger if place.is_dir() else place
        if owners_folder.exists(place):
            path, owner = owners_folder.ledger_of(place, owner)
        elif ClientFolder(place).is_one:
            path = ClientFolder.open(place).ledgers
        if not path.is_file():
            raise ConfigError(f"{path} does not exist; give a run directory or a ledger file")
        store = Ledgers.read(path)
        try:
            owners = store.owners()
            if not owners:
                raise ConfigError(f"{path} holds no entries: a run without differential privacy charges nothing")
            if owner is None and len(owners) > 1:
                raise ConfigError(f"{path} holds {len(owners)} ledgers; choose one with --owner, such as {owners[0]!r}")
            if owner is not None and owner not in owners:
                raise ConfigError(f"{path} holds no ledger of {owner!r}; it holds {', '.join(owners[:5])}")
            yield store.existing(owner or owners[0])
        finally:
            store.close()
