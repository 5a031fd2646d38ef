"""`fgrpo config`: every key that a configuration may have, before any run."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config.files import ConfigError


def config(
    key: Annotated[str | None, typer.Argument(help="A table or a key, such as privacy or privacy.epsilon.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the documentation.")] = False,
) -> None:
    """Print each key of a configuration, and what it means. Beside it stand its default, what is allowed, and
    which keys it goes with.
    """
    from fgrpo_secure.config import reference

    with one_sentence():
        found = reference.matching(key)
        if not found:
            raise ConfigError(f"{key!r} is no table or key of a configuration; {reference.nearest(str(key))}")
    if as_json:
        typer.echo(json.dumps({each.name: asdict(each) for table in found for each in table.keys}, indent=2))
    elif as_markdown:
        typer.echo(reference.page(), nl=False)
    else:
        typer.echo(reference.as_text(found), nl=False)
