"""`fgrpo merge`: a run's adapter and its base model as one model."""

from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.storage.run_directory import RunDirectory


def merge(
    directory: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="Where the base model lies here; default: as configured."),
    ] = None,
) -> None:
    """Write base model and adapter as one model. The folder holds its tokenizer and a filled-in card, too."""
    from fgrpo_secure.run import merging  # the model's libraries take seconds to import

    with one_sentence():
        made = merging.merge(RunDirectory(directory), out, model)
    typer.echo(f"{made}: a model of its own, for transformers' pipeline or `vllm serve`; README.md is its card")
