"""A finished run's model, base and adapter, as whoever got the run's directory loads it."""

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.models import BaseModel
from fgrpo_secure.storage.run_directory import RunDirectory


class NotReleased(UnusableInput):
    """The directory holds no finished run."""


def configuration(directory: RunDirectory, model: str | None = None) -> Config:
    """The run's configuration; `model` is where its base lies here, as configured unless given. Raises NotReleased."""
    if not directory.config.is_file() or not directory.summary.is_file():
        raise NotReleased(f"{directory.root} is no finished run: it lacks {directory.config.name} or summary.json")
    config = config_file.load(str(directory.config))
    if model is None:
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"path": model})})


def untrained(config: Config) -> AdaptedModel:
    """The model that the run began with."""
    return adapters.attach(models.load(config.model), config.adapter, config.run.seed)


def trained(directory: RunDirectory, config: Config, base: BaseModel) -> AdaptedModel:
    """The model that the run released."""
    released = config.adapter.model_copy(update={"init_from": str(directory.adapter)})
    return adapters.attach(base, released, config.run.seed)
