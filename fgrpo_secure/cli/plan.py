"""`fgrpo plan`: what a configuration costs, and whether it can learn, before anything runs."""

import json
import shutil
from typing import Annotated

import typer

from fgrpo_secure.cli import plan_table
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.plan import adapter_shape
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.storage import earlier_claims


def plan(
    config: Annotated[
        str | None, typer.Argument(help="Preset name or TOML file. Default: fgrpo.toml here, else quickstart.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--rounds-for-epsilon", metavar="EPSILON", help="How many rounds this budget buys at this noise."),
    ] = None,
    crosscheck: Annotated[
        bool, typer.Option("--crosscheck", help="State the claim by other accountants, too; takes seconds.")
    ] = False,
    tried: Annotated[
        bool, typer.Option("--try", help="Load the model, too, and call each reward once with what it writes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure, as one JSON object.")] = False,
) -> None:
    """Say what a run would cost, guarantee and learn. Exit 2 if it cannot be, naming what is wrong or the nearest that
    can be: whatever a run would refuse, but for what --try adds.
    """
    from fgrpo_secure.plan import advice, division, forecast, run_plan
    from fgrpo_secure.run import inputs

    with one_sentence():
        loaded = config_file.load(config or config_file.default(), overrides or [])
        found_inputs = inputs.check(loaded)
        adapter = _shape(loaded)
        if budget is not None:
            loaded, privacy = advice.rounds_for_epsilon(loaded, adapter, budget)
        else:
            privacy = run_plan.plan(loaded, adapter)
        facts = {"federation.rounds": privacy.rounds, **privacy.facts(), **forecast.of(loaded, privacy).facts()}
        facts |= division.facts(loaded, privacy)
        if crosscheck:
            facts |= run_plan.crosscheck(privacy)
        found = advice.changes(loaded, adapter, privacy)
        better = forecast.improvements(loaded, privacy)
        for name, changes in (("advice", found), ("more_for_the_same_budget", better)):
            facts[name] = [{"change": change.says, "set": list(change.overrides)} for change in changes]
        facts |= {"privacy.earlier": earlier_claims.sentences(loaded), **found_inputs.facts()}
        if tried:
            facts["tried"] = _try(loaded)
            facts["inputs.not_checked"] = []
    if as_json:
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
        return
    for line in plan_table.lines(loaded, facts, shutil.get_terminal_size((100, 24)).columns):
        typer.echo(line)


def _try(config: Config) -> str:
    """What was tried, in words. Raises the errors of `training.start`."""
    from fgrpo_secure.learning import adapters, models
    from fgrpo_secure.learning.pass_rates import Examination
    from fgrpo_secure.run import preflight

    adapted = adapters.attach(models.load(config.model), config.adapter, config.run.seed)
    preflight.check(config, adapted, Examination.prepare(config))
    return "the model loads, every prompt fits it, and each reward of one's own marks what it writes"


def _shape(config: Config) -> AdapterShape:
    """The adapter's shape from the model's files, in no time; from the loaded model where those do not say."""
    found = adapter_shape.read(config.model.path, config.adapter)
    if found is not None:
        return found
    from fgrpo_secure.learning import adapters, models  # takes seconds to import

    return adapter_shape.of(adapters.attach(models.load(config.model), config.adapter, config.run.seed))
