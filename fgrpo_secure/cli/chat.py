"""`fgrpo chat`: talk with a run's model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.storage.run_directory import RunDirectory


def chat(
    directory: Annotated[Path, typer.Argument(help="Run directory.")],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="Where the base model lies here; default: as configured."),
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a reply. Default: as in training.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0: the likeliest. Default: as in training.")] = None,
) -> None:
    """Read a line, print the model's reply, until the input ends. Nothing is kept."""
    from fgrpo_secure.run.talking import Conversation  # the model's libraries take seconds to import

    with one_sentence():
        conversation = Conversation.open(RunDirectory(directory), model, tokens, temperature)
        while True:
            if sys.stdin.isatty():
                typer.echo("> ", nl=False)
            line = sys.stdin.readline()
            if not line:
                break
            if line.strip():
                typer.echo(conversation.reply(line.strip()))
