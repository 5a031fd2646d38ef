"""Commands of other packages, through the entry-point group `fgrpo.commands`; nothing here knows their names.

They are loaded for `fgrpo --help`, too, which shows the first paragraph of their help: what a command needs beyond
`typer` is imported when it is called.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import typer

GROUP = "fgrpo.commands"


def add(app: typer.Typer) -> None:
    """Adds every contributed command. One that cannot be loaded says so when it is called, and harms no other."""
    for entry in sorted(entry_points(group=GROUP)):
        try:
            command = entry.load()
        except (ImportError, AttributeError) as problem:
            command = _unusable(entry, problem)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(name=entry.name)(command)


def _unusable(entry: EntryPoint, problem: Exception) -> Callable[[], None]:
    sentence = f"fgrpo: the command {entry.name!r} cannot be loaded from {entry.value}: {problem}"

    def unusable() -> None:
        """This command is not installed correctly."""
        typer.echo(sentence, err=True)
        raise typer.Exit(2)

    return unusable
