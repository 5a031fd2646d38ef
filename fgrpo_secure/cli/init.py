"""`fgrpo init`: a project of one's own that runs at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config.files import ConfigError


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write it; made if need be.")] = Path("."),
    kind: Annotated[
        str | None, typer.Option(help="questions (with answers), chat (with a rule) or subjects (in a column).")
    ] = None,
) -> None:
    """Write a small federation to begin from. It has a configuration, rewards, data and an evaluation set; no file that
    is there is overwritten.
    """
    from fgrpo_secure.run import project

    with one_sentence():
        if kind is None and sys.stdin.isatty():
            for name, about in project.KINDS.items():
                typer.echo(f"{name:10} {about.about}", err=True)
            kind = typer.prompt("kind", default="questions", err=True)
        wanted = kind or "questions"
        if wanted not in project.KINDS:
            raise ConfigError(f"--kind {wanted!r} is not known; allowed are {', '.join(project.KINDS)}")
        written = project.write(folder, wanted)
    typer.echo(f"{folder}: {', '.join(path.relative_to(folder).as_posix() for path in written)}")
    typer.echo(f"next: {'' if folder == Path('.') else f'cd {folder}; '}fgrpo plan; fgrpo run")
