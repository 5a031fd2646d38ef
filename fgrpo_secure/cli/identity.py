"""`fgrpo identity new`: a secret identity in a file, and the line that enrols it."""

from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure import entropy
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.storage import identity_file
from protocols.identity import Identity
from protocols.roster import enrolment_line

identity = typer.Typer(help="Make secret identities.", no_args_is_help=True)


@identity.callback()
def commands() -> None:
    """Make secret identities of organisations, servers and authorities."""


@identity.command()
def new(
    name: Annotated[str, typer.Option(help="Name on the roster: letters, digits, '.', '_' and '-'.")] = "client",
    out: Annotated[Path | None, typer.Option(help="The secret file. Default: NAME.identity.")] = None,
) -> None:
    """Make an identity file that only its owner can read, and print the public enrolment line."""
    with one_sentence():
        seed = entropy.OsEntropy().bytes(identity_file.SEED_BYTES)
        identity_file.write(out or Path(f"{name}.identity"), name, seed)
    typer.echo(enrolment_line(Identity.from_seed(seed), name))
