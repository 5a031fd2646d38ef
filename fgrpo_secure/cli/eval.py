"""`fgrpo eval`: what a run's adapter changed, before and after, with intervals."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Evaluation
from fgrpo_secure.config.section import Section
from fgrpo_secure.storage.run_directory import RunDirectory


class _Asked(Section):
    evaluation: Evaluation


def evaluate(
    directory: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[
        Path | None, typer.Option(help="Problems of your own, as evaluation.data. Default: the run's.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="Their reward, of which 1 is a pass. Default: exact.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Completions of each problem.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="Where the base model lies here; default: as configured."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Figures for scripts.")] = False,
) -> None:
    """Measure base model and adapter on the same problems. Prints both pass rates and their difference."""
    from fgrpo_secure.run import before_and_after  # the model's libraries take seconds to import

    with one_sentence():
        if reward is not None and data is None:
            raise config_file.ConfigError("--reward is for problems of your own: give --data, too")
        other = None
        if data is not None:
            table = {"data": str(data.resolve()), "reward": reward, "prompts": 1_000_000_000}
            other = config_file.parse_as(_Asked, {"evaluation": table}, "fgrpo eval").evaluation
        found = before_and_after.compare(RunDirectory(directory), model, other, samples)
    for line in [json.dumps(found.facts())] if as_json else found.lines():
        typer.echo(line)
