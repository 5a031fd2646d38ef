"""Configurations that would let one unit's data reach another's contribution are refused, each with its reason."""

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError

SITE = '[[client]]\nname = "a"\ntask = "add"\nsubject = "patient"\nrows = 8\nrows_per_subject = 2\n'


def load(tmp_path, *overrides, text=SITE, unit="subject"):
    path = tmp_path / "units.toml"
    path.write_text(f'[privacy]\nunit = "{unit}"\nepsilon = 8.0\n{text}')
    return config_file.load(str(path), overrides)


@pytest.mark.parametrize("unit", ["subject", "prompt_group"])
def test_what_is_not_written_gets_the_value_that_small_units_can_have(tmp_path, unit):
    config = load(tmp_path, unit=unit)
    assert (config.weighting.rule, config.grpo.optimizer, config.grpo.max_grad_norm) == ("uniform", "sgd", None)
    assert config.grpo.prompts_per_step == (4 if unit == "subject" else 1)
    assert config.units_per_client == (4 if unit == "subject" else 8)
    assert config_file.load(str(tmp_path / "units.toml"), ["privacy.unit=client"]).weighting.rule == "history"


@pytest.mark.parametrize("unit", ["subject", "prompt_group"])
@pytest.mark.parametrize("more", [[], ["privacy.mode=local", "grpo.optimizer=adam", "federation.local_steps=3"]])
def test_an_effective_configuration_reads_back_as_the_same_one(tmp_path, unit, more):
    config = load(tmp_path, *more, unit=unit)
    (tmp_path / "again.toml").write_text(config_file.dump(config))
    assert config_file.load(str(tmp_path / "again.toml")) == config


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("grpo.loss_type=grpo", "divides by what other prompts produced"),
        ("grpo.loss_type=bnpo", "divides by what other prompts produced"),
        ("grpo.loss_type=dapo", "divides by what other prompts produced"),
        ("grpo.scale_rewards=batch", "deviation over all units"),
        ("grpo.num_iterations=2", "several releases"),
        ("grpo.max_grad_norm=1.0", "couples them"),
        ("adapter.dropout=0.1", "one unit's absence would move the gradients of the others"),
        ("grpo.optimizer=adam", "has no part in mode 'distributed'"),
        ("federation.local_steps=2", "no noise covers yet"),
        ("weighting.rule=history", "raw rewards"),
        ("weighting.rule=softmax", "raw rewards"),
        ("weighting.rule=linear", "raw rewards"),
        ("weighting.reward_range=[0, 1]", "cost privacy"),
        ("weighting.gain_prompts=8", "no charge covers"),
        ("client.a.rows_per_subject=0", "at least 1"),
        ("privacy.units_per_client=3", "has 4 units"),
        ("privacy.sampling_rate=1.5", "below 1"),
        ("privacy.sampling_rate=0", "above 0"),
        ("privacy.max_rounds_per_unit=0", "at least 1"),
    ],
)
def test_each_coupling_is_refused_in_one_sentence_with_its_reason(tmp_path, override, reason):
    with pytest.raises(ConfigError) as problem:
        load(tmp_path, override)
    assert reason in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("key", ["mode=local", "sampling_rate=0.5", "units_per_client=4", "max_rounds_per_unit=2"])
@pytest.mark.parametrize("unit", ["client", "none"])
def test_settings_of_small_units_are_refused_where_the_client_is_the_unit(tmp_path, key, unit):
    with pytest.raises(ConfigError, match=r"is for privacy\.unit 'subject' and 'prompt_group'"):
        load(tmp_path, f"privacy.{key}", unit=unit)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[[client]]\nname = "a"\ntask = "add"\nrows = 8\n', "needs 'subject'"),
        ('[[client]]\nname = "a"\ntask = "add"\nsubject = "p"\n', "give 'rows'"),
        ('[[client]]\nname = "a"\ndata = "x.jsonl"\nreward = "exact"\nsubject = "p"\n', "units_per_client"),
        ('[[client]]\nname = "a"\ndata = "x.jsonl"\nreward = "exact"\nsubject = "p"\ncount = 2\n', "several budgets"),
        ('[[client]]\nname = "a"\ndata = "x.jsonl"\nreward = "exact"\nsubject = "p"\nrows = 3\n', "leave 'rows'"),
        (
            (
                'units_per_client = 9\n[[client]]\nname = "a"\ndata = "x.jsonl"\nreward = "exact"\nsubject = "p"\n'
                '[[client]]\nname = "b"\ndata = "x.jsonl"\nreward = "exact"\nsubject = "p"\n'
            ),
            "two budgets",
        ),
    ],
)
def test_data_whose_units_have_no_name_no_bound_or_two_budgets_is_refused(tmp_path, text, reason):
    with pytest.raises(ConfigError, match=reason):
        load(tmp_path, text=text)


@pytest.mark.parametrize("rule", ["weighting.rule=history", "weighting.rule=softmax"])
def test_gains_need_a_public_range_and_their_own_noise(tmp_path, rule):
    with pytest.raises(ConfigError, match="raw rewards"):
        load(tmp_path, rule, "weighting.reward_range=[0, 1]")
    with pytest.raises(ConfigError, match="must be ascending"):
        load(tmp_path, rule, "weighting.reward_range=[1, 0]", "weighting.reward_noise_multiplier=4")
    config = load(tmp_path, rule, "weighting.reward_range=[0, 1]", "weighting.reward_noise_multiplier=4")
    assert config.weighting.reward_range == (0.0, 1.0)


def test_turns_and_coins_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="only one of them"):
        load(tmp_path, "privacy.sampling_rate=0.5", "privacy.max_rounds_per_unit=2")


@pytest.mark.parametrize("override", ["grpo.num_iterations=2", "grpo.beta=0.04"])
def test_dropout_is_refused_where_it_would_be_taken_for_a_change_of_policy(tmp_path, override):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"adapter\.dropout above 0 asks for {key} = "):
        load(tmp_path, "adapter.dropout=0.1", override, "privacy.unit=client")
    assert load(tmp_path, "adapter.dropout=0.1", "privacy.unit=client").adapter.dropout == 0.1
