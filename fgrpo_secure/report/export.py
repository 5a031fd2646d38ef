"""Metrics of a run for the tools that people watch trainings with. Aggregates only: what metrics.jsonl holds.

TensorBoard and MLflow are extras: `pip install fgrpo-secure[tensorboard]` or `[mlflow]`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fgrpo_secure.config import files as config_file
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError


def scalars(directory: RunDirectory) -> Iterator[tuple[str, int, float]]:
    """(name, round, value) of every number in metrics.jsonl; RunDirectoryError if there is none."""
    directory.require()
    if not directory.metrics.exists():
        raise RunDirectoryError(f"{directory.root} has no finished round yet")
    for line in directory.read_metrics():
        for name, value in line.items():
            if name != "round" and isinstance(value, int | float) and not isinstance(value, bool):
                yield name, int(line["round"]), float(value)


def to_tensorboard(directory: RunDirectory, out: Path) -> int:
    """Write event files into `out`; how many values."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RunDirectoryError("TensorBoard is not installed; install the extra 'tensorboard'") from None
    written = 0
    with SummaryWriter(str(out)) as writer:
        for name, place, value in scalars(directory):
            writer.add_scalar(name, value, place)
            written += 1
    return written


def to_mlflow(directory: RunDirectory, uri: str) -> int:
    """Log a run into the tracking store at `uri`; how many values."""
    try:
        import mlflow  # type: ignore[import-not-found]  # an extra, not installed where types are checked
    except ImportError:
        raise RunDirectoryError("MLflow is not installed; install the extra 'mlflow'") from None
    try:
        return _log(directory, mlflow.MlflowClient(tracking_uri=uri))
    except mlflow.MlflowException as problem:
        first = str(problem).splitlines()[0]
        raise RunDirectoryError(f"the MLflow store {uri} cannot be used: {first}") from None


def _log(directory: RunDirectory, client: Any) -> int:
    name = config_file.load(str(directory.config)).run.name
    found = client.get_experiment_by_name("fgrpo")
    experiment = client.create_experiment("fgrpo") if found is None else found.experiment_id
    run = client.create_run(experiment, run_name=name)
    written = 0
    for metric, place, value in scalars(directory):
        client.log_metric(run.info.run_id, metric, value, step=place)
        written += 1
    client.set_terminated(run.info.run_id)
    return written
