"""Commands by name and summary, each loaded from its own module when its name is typed.

`fgrpo --help` and `fgrpo --version` thus wait for no command's libraries (configuration, numpy, the ledger). A summary
begins the command's own help, too; a test compares the two.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Deferred:
    """A command as the list shows it. `found_in` is MODULE:ATTRIBUTE in this package: a function, or a group."""

    name: str
    found_in: str
    summary: str

    def add_to(self, app: typer.Typer) -> None:
        """Put name and summary into the list of `app`, whose `cls` is a `loading` of this command."""

        @app.command(self.name, help=self.summary)
        def called() -> None:
            raise AssertionError(f"{self.name} is run from {self.found_in}")

    def load(self) -> Any:
        """The command itself, with its options and its whole help. Any, because typer does not export the type."""
        module, attribute = self.found_in.split(":")
        found, around = getattr(import_module(f"{__package__}.{module}"), attribute), typer.Typer()
        if isinstance(found, typer.Typer):
            around.add_typer(found, name=self.name)
        else:
            around.command(self.name)(found)
        return typer.main.get_group(around).commands[self.name]


def loading(commands: tuple[Deferred, ...]) -> type[TyperGroup]:
    """A group of commands that loads the one of `commands` that is called, and no other."""
    by_name = {command.name: command for command in commands}

    class Loading(TyperGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, listed, rest = super().resolve_command(ctx, args)
            return name, by_name[name].load() if name in by_name else listed, rest

    return Loading
