"""`fgrpo model`: a base model's folder from the file that carries it."""

from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence


def model(
    source: Annotated[str, typer.Argument(help="A GGUF file, or an installed package that holds one.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
) -> None:
    """Make a model folder that `model.path` can name. Tokenizer and chat template come from the same file."""
    from fgrpo_secure.learning import unpacking  # the model's libraries take seconds to import

    with one_sentence():
        made = unpacking.unpack(source, out)
    typer.echo(f"{made}: a model folder; `fgrpo run smollm2 --set model.path={made}` trains on it")
