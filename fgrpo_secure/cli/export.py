"""`fgrpo export`: the metrics of a run for TensorBoard or MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.report import export as exports
from fgrpo_secure.storage.run_directory import RunDirectory


def export(
    directory: Annotated[Path, typer.Argument(help="Run directory.")],
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard event files.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="URI of an MLflow tracking store.")] = None,
) -> None:
    """Write every number of metrics.jsonl where other tools read it. Nothing about any one client is in it."""
    with one_sentence():
        run = RunDirectory(directory)
        if (tensorboard is None) == (mlflow is None):
            raise ConfigError("give exactly one of --tensorboard FOLDER and --mlflow URI")
        if tensorboard is not None:
            if tensorboard.resolve().is_relative_to(directory.resolve()):
                raise ConfigError(f"{tensorboard} lies inside the run, whose manifest it would break; choose another")
            typer.echo(f"{tensorboard}: {exports.to_tensorboard(run, tensorboard)} values")
        elif mlflow is not None:
            typer.echo(f"{mlflow}: {exports.to_mlflow(run, mlflow)} values")
