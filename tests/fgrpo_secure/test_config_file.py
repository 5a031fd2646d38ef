"""Configuration files: what is accepted, what is refused and in which words."""

import pytest

from fgrpo_secure import config_file
from fgrpo_secure.config_file import ConfigError

MINIMAL = '[[client]]\nname = "a"\ntask = "add"\n'


def write(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            MINIMAL + "[grpo]\nnum_generation = 8\n",
            "grpo.num_generation is not a known key; did you mean 'num_generations'",
        ),
        (MINIMAL + "[gpro]\nx = 8\n", "gpro is not a known key; did you mean 'grpo'"),
        (MINIMAL + "[federation]\nrounds = 'ten'\n", "federation.rounds: input should be a valid integer"),
        (MINIMAL + "[privacy]\nepsilon = -1\n", "privacy.epsilon: input should be greater than"),
        (MINIMAL + "[privacy]\nepsilon = 1\nnoise_multiplier = 1\n", "exactly one of 'epsilon' and 'noise_multiplier'"),
        (MINIMAL + "[privacy]\nepsilon = nan\n", "privacy.epsilon: input should be"),
        (MINIMAL + "[aggregation]\nmax_dropout = 1.0\n", "aggregation.max_dropout: input should be less than 1"),
        (MINIMAL + "[federation]\nclients = 9\n", "federation.clients is 9, but the [[client]] tables make 1"),
        ("[run]\nname = 'x'\n", "client is missing"),
        ('[[client]]\nname = "a"\n', "needs exactly one of 'task' and 'data'"),
        ('[[client]]\nname = "a"\ndata = "x.jsonl"\n', "therefore needs a 'reward'"),
        ("[[client]\n", "is not valid TOML"),
    ],
)
def test_unusable_configurations_are_refused_in_one_sentence_that_names_file_and_key(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as refusal:
        config_file.load(path)
    assert words in str(refusal.value)
    assert str(refusal.value).startswith(path)
    assert "\n" not in str(refusal.value)


def test_a_name_that_is_neither_file_nor_preset_lists_the_presets():
    with pytest.raises(ConfigError, match=r"one of the presets .*quickstart"):
        config_file.load("quikstart")


def test_overrides_reach_sections_and_clients_by_name(tmp_path):
    path = write(tmp_path, MINIMAL)
    config = config_file.load(path, ["federation.rounds=3", "run.name=mine", "client.a.count=5"])
    assert (config.federation.rounds, config.run.name, config.clients_total) == (3, "mine", 5)


@pytest.mark.parametrize("override", ["rounds=3", "federation.rounds", "client.zz.count=2"])
def test_overrides_that_name_nothing_are_refused(tmp_path, override):
    with pytest.raises(ConfigError, match="--set"):
        config_file.load(write(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize("preset", config_file.presets())
def test_the_effective_configuration_of_every_preset_loads_to_itself(preset, tmp_path):
    config = config_file.load(preset)
    text = config_file.dump(config)
    assert config_file.load(write(tmp_path, text)) == config
    keys = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    assert all("# " in line for line in keys)


def test_data_files_are_meant_relative_to_the_configuration_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1"}\n')
    config = config_file.load(write(tmp_path, '[[client]]\nname="a"\ndata="rows.jsonl"\nreward="exact"\n'))
    assert config.client[0].data == str(tmp_path / "rows.jsonl")
