"""`fgrpo try`: one step of a client's round on this machine, shown to the owner of its data."""

from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError


def attempt(
    config: Annotated[str, typer.Argument(help="Preset name or TOML file.")],
    name: Annotated[
        str | None, typer.Option("--client", metavar="NAME", help="Whose data; default: the first client of the file.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
    ] = None,
) -> None:
    """Take one step of a client's training on this machine, and show all of it. Completions of its prompts are
    sampled, its rewards called, one step trained; prompts, completions, rewards, lengths, seconds and memory are shown.
    Nothing is sent or charged. Exit 2 with what would fail.
    """
    from fgrpo_secure.learning import adapters, models
    from fgrpo_secure.plan import adapter_shape, run_plan
    from fgrpo_secure.run import inputs, rehearsal

    with one_sentence():
        loaded = config_file.load(config, overrides or [])
        chosen = [client for client in loaded.client if name in (None, client.name)]
        if not chosen:
            known = ", ".join(client.name for client in loaded.client) or "none"
            raise ConfigError(f"{config} has no [[client]] {name or ''}; it has {known}")
        inputs.check(loaded)
        adapted = adapters.attach(models.load(loaded.model), loaded.adapter, loaded.run.seed)
        privacy = run_plan.plan(loaded, adapter_shape.of(adapted))
        found = rehearsal.rehearse(loaded, adapted, chosen[0])
    typer.echo(f"client {chosen[0].name}: what follows is for the owner of its data")
    for line in rehearsal.lines(found, loaded, privacy):
        typer.echo(line)
