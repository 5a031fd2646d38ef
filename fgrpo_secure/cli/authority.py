"""`fgrpo authority`: a machine that is neither server nor client signs who may take part. Files in, files out."""

from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure import entropy
from fgrpo_secure.cli import roster
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.storage import identity_file
from protocols.identity import Identity

authority = typer.Typer(help="Sign rosters, on a machine of its own.", no_args_is_help=True)
IDENTITY, ROSTER = "authority.identity", "roster.bin"
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The authority's own folder.")]


@authority.callback()
def described() -> None:
    """Sign rosters, on a machine of its own: no network is needed."""


@authority.command()
def new(folder: Folder) -> None:
    """Make the authority's folder and secret key, and print the public key that everybody is told."""
    with one_sentence():
        try:
            folder.mkdir(parents=True, mode=0o700)
        except OSError as problem:
            raise ConfigError(
                f"{folder} cannot be made: {problem.strerror}; choose a folder that is not there"
            ) from None
        seed = entropy.OsEntropy().bytes(identity_file.SEED_BYTES)
        identity_file.write(folder / IDENTITY, "authority", seed)
    typer.echo(Identity.from_seed(seed).public.hex())


@authority.command()
def sign(
    folder: Folder,
    lines: Annotated[list[str], typer.Argument(help="Enrolment lines of clients, or files of them.")],
    replace_key: Annotated[bool, typer.Option("--replace", help="New keys for names that are enrolled.")] = False,
) -> None:
    """Enrol clients and sign the next version of DIR/roster.bin, which is handed to the server.

    Revocations, last days and hand-overs are `fgrpo roster`, on the same file.
    """
    with one_sentence():
        if not (folder / IDENTITY).is_file():
            raise ConfigError(f"{folder} is no authority's folder; `fgrpo authority new {folder}` makes one")
    roster.add(folder / ROSTER, lines, folder / IDENTITY, replace_key)
