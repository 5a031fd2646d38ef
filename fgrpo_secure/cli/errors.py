"""From an exception to one sentence and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fgrpo_secure.errors import CheckFailed, UnusableInput
from protocols.params import Infeasible


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn every error that a user can cause or meet into one line on standard error."""
    try:
        yield
    except (UnusableInput, Infeasible) as problem:
        typer.echo(f"fgrpo: {problem}", err=True)
        raise typer.Exit(2) from None
    except CheckFailed as problem:
        typer.echo(f"fgrpo: {problem}", err=True)
        raise typer.Exit(1) from None
