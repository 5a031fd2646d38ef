"""`fgrpo plan`: what a configuration costs, and whether it can learn, before anything runs."""

import json
from typing import Annotated

import typer

from fgrpo_secure import config_file
from fgrpo_secure.cli.errors import one_sentence


def plan(
    config: Annotated[str, typer.Argument(help="Preset name or TOML file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--rounds-for-epsilon", metavar="EPSILON", help="How many rounds this budget buys at this noise."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a run would cost and guarantee. Exit 2 if it cannot be, naming the nearest that can."""
    # The model's libraries take seconds to import; other commands need not wait.
    from fgrpo_secure import adapters, advice, models, run_plan

    with one_sentence():
        loaded = config_file.load(config, overrides or [])
        policy = adapters.attach(models.load(loaded.model), loaded.adapter, loaded.run.seed)
        if budget is not None:
            loaded, privacy = advice.rounds_for_epsilon(loaded, policy, budget)
        else:
            privacy = run_plan.plan(loaded, policy)
        facts = {"federation.rounds": privacy.rounds, **privacy.facts(), **run_plan.crosscheck(privacy)}
        found = advice.changes(loaded, policy, privacy)
        facts["advice"] = [{"change": change.says, "set": list(change.overrides)} for change in found]
    if as_json:
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
        return
    facts["advice"] = [change.says for change in found]
    width = max(map(len, facts))
    for key, value in facts.items():
        typer.echo(f"{key:{width}}  {'-' if value is None or value == [] else value}")
