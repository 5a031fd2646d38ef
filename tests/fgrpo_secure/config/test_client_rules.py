"""Who takes part: a run over many machines names how many organisations there are, and neither owners nor data."""

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.learning.tasks import UnusableData, evaluation_sets
from fgrpo_secure.storage import opening

APART = '[engine]\nkind = "https"\n[federation]\nclients = 5\n[evaluation]\ntasks = ["add", "sub-2"]\nprompts = 3\n'


def test_organisations_on_machines_of_their_own_are_counted_and_not_described():
    config = config_file.parse_text(APART, "run.toml")
    assert (config.client, config.clients_total, config.cohort) == ((), 5, 5)
    assert config_file.parse_text(config_file.dump(config), "again") == config
    assert opening.trial_digest(config) == opening.trial_digest(config_file.parse_text(APART, "elsewhere"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("clients = 5", ""), "give federation.clients, how many organisations take part"),
        (('tasks = ["add", "sub-2"]', ""), "give evaluation.tasks, or name a JSON Lines file"),
        (('kind = "https"', 'kind = "https"\nprocesses = 2'), "engine.processes and engine.owners are for trials"),
        (("[evaluation]", '[[client]]\nname = "a"\ntask = "add"\n[evaluation]'), "remove the [[client]] tables"),
        (
            ("[evaluation]", '[aggregation]\nmode = "plain"\nadversary = "none"\nmax_corrupt = 0\n[evaluation]'),
            "would show every organisation's update to the server",
        ),
        (("[evaluation]", '[privacy]\nunit = "prompt_group"\nepsilon = 8.0\n[evaluation]'), "units_per_client"),
    ],
)
def test_what_would_name_an_owner_or_make_its_secrets_common_is_refused_in_one_sentence(change, words):
    with pytest.raises(ConfigError) as refusal:
        config_file.parse_text(APART.replace(*change), "run.toml")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_trial_still_needs_its_tables():
    with pytest.raises(ConfigError, match=r"client is missing: no \[\[client\]\] table says who takes part"):
        config_file.parse_text("[federation]\nclients = 5\n", "run.toml")


def test_the_configuration_names_what_is_measured_where_no_client_does():
    config = config_file.parse_text(APART, "run.toml")
    assert {name: len(rows) for name, rows in evaluation_sets((), config.evaluation).items()} == {
        "add-1": 3,
        "sub-2": 3,
    }


@pytest.mark.parametrize("task", ["adding", "add-4", "add-x", ""])
def test_a_task_that_does_not_exist_is_refused_by_name(task):
    config = config_file.parse_text(APART.replace("sub-2", task), "run.toml")
    with pytest.raises(UnusableData, match=r"evaluation\.tasks: .* is no task; write one of add, sub"):
        evaluation_sets((), config.evaluation)
