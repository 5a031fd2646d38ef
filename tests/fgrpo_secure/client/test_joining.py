"""What joining does before the owner agrees: it reads files that are here, and fetches nothing."""

import pytest

from fgrpo_secure.client import joining
from fgrpo_secure.config.own_file import OwnFile
from fgrpo_secure.learning import models
from fgrpo_secure.storage.invitation import InvitationError


@pytest.mark.parametrize("path", ["somebody/model", "nobody-has-this"])
def test_a_model_that_is_not_here_is_not_fetched(trial, monkeypatch, path):
    def fetched(_):
        raise AssertionError("a model was loaded before the owner agreed")

    monkeypatch.setattr(models, "load", fetched)
    config, _ = trial.configure(f"model.path={path}")
    with pytest.raises(InvitationError, match=r"is no folder here, and joining fetches nothing"):
        joining._shape(config, OwnFile(name="north"), "00" * 32)


def test_the_shape_of_a_model_that_is_here_comes_from_its_files(trial, monkeypatch):
    monkeypatch.setattr(models, "load", None)
    config, _ = trial.configure()
    shape = joining._shape(config, OwnFile(name="north"), "00" * 32)
    assert shape.dimension(0) > 0
