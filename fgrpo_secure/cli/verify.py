"""`fgrpo verify`: check a run that somebody else made, from its files alone."""

from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config_file import ConfigError
from fgrpo_secure.run_directory import RunDirectory

KEY_BYTES = 32


def verify(
    directory: Annotated[Path, typer.Argument(help="Run directory.")],
    authority: Annotated[str | None, typer.Option(help="The authority's public key (hex) that you know.")] = None,
    server: Annotated[str | None, typer.Option(help="The server's public key (hex) that you know.")] = None,
    witnessed: Annotated[
        list[Path] | None, typer.Option("--witnessed", help="A checkpoint that a client kept (repeatable).")
    ] = None,
) -> None:
    """Check files, signatures, ledger, witnesses and claims of a finished run; exit 1 at the first mismatch."""
    # The model's libraries take seconds to import; other commands need not wait.
    from fgrpo_secure.evidence import verify as evidence

    with one_sentence():
        if not directory.is_dir():
            raise ConfigError(f"{directory} is not a directory; give a run directory such as runs/quickstart")
        notes = tuple(witnessed or ())
        if absent := [path for path in notes if not path.is_file()]:
            raise ConfigError(f"{absent[0]} is not a file; --witnessed takes a checkpoint that a client kept")
        trust = evidence.Trust(_key(authority, "--authority"), _key(server, "--server"), notes)
        try:
            for name, found in evidence.verify(RunDirectory(directory), trust):
                typer.echo(f"ok    {name}: {found}")
        except evidence.Mismatch as mismatch:
            typer.echo(f"fgrpo: {directory} does not verify: {mismatch}", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"{directory} verifies")


def _key(text: str | None, option: str) -> bytes | None:
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{option} is not a public key; allowed are {2 * KEY_BYTES} hexadecimal digits")
    return key
