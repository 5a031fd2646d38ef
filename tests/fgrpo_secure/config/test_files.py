"""Configuration files: what is accepted, what is refused and in which words."""

import datetime

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError

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
        (
            MINIMAL + "[federation]\nrounds = 'ten'\n",
            "line 5: federation.rounds must be an integer at least 1 and at most 1,000,000, not 'ten'",
        ),
        (MINIMAL + "[privacy]\nepsilon = -1\n", "privacy.epsilon must be a number at least 1e-09, not -1"),
        (MINIMAL + "[privacy]\nepsilon = 1\nnoise_multiplier = 1\n", "exactly one of 'epsilon' and 'noise_multiplier'"),
        (MINIMAL + "[privacy]\nepsilon = nan\n", "privacy.epsilon must be"),
        (
            MINIMAL + "[aggregation]\nmax_dropout = 1.0\n",
            "aggregation.max_dropout must be a number at least 0 and below 1, not 1.0",
        ),
        (MINIMAL + "[federation]\nclients = 9\n", "federation.clients is 9, but the [[client]] tables make 1"),
        ("[run]\nname = 'x'\n", "client is missing"),
        ('[[client]]\nname = "a"\n', "needs exactly one of 'task' and 'data'"),
        ('[[client]]\nname = "a"\ndata = "x.jsonl"\n', "therefore needs a 'reward'"),
        ("[[client]\n", "is not valid TOML"),
        ('[client]\nname = "a"\ntask = "add"\n', "write [[client]] in double brackets"),
    ],
)
def test_unusable_configurations_are_refused_in_one_sentence_that_names_file_and_key(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as refusal:
        config_file.load(path)
    assert words in str(refusal.value)
    assert str(refusal.value).startswith(path)
    assert "\n" not in str(refusal.value)


def test_the_default_rule_is_history_and_each_rule_has_the_gain_range_it_was_made_for(tmp_path):
    path = write(tmp_path, MINIMAL)
    default = config_file.load(path).weighting
    assert (default.rule, default.gain_clip, default.min_weight) == ("history", 3.0, 0.5)
    for rule in ("softmax", "linear", "uniform"):
        assert config_file.load(path, [f"weighting.rule={rule}"]).weighting.gain_clip == 2.0
    assert config_file.load(path, ["weighting.rule=softmax", "weighting.gain_clip=1.0"]).weighting.gain_clip == 1.0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("weighting.gain=relative", "gain 'relative' is for rules 'softmax' and 'linear'"),
        ("weighting.temperature=1.0", "temperature 1.0 is for rules 'softmax' and 'linear'"),
        ("weighting.favour=laggards", "favour 'laggards' is for rules 'softmax' and 'linear'"),
        ("weighting.gain_clip=2.0", "gain_clip is 2; rule 'history' gives min_weight 0.5 to gains of -2.5 and below"),
        ("weighting.min_weight=0.1", "must be at least 3.3"),
    ],
)
def test_rule_history_refuses_what_it_has_no_use_for_and_a_range_that_never_reaches_the_least_weight(
    tmp_path, override, words
):
    path = write(tmp_path, MINIMAL)
    with pytest.raises(ConfigError) as refusal:
        config_file.load(path, [override])
    assert words in str(refusal.value)
    if "min_weight" not in override:
        config_file.load(path, [override, "weighting.rule=softmax"])


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


OWN = '[[client]]\nname = "a"\ntask = "add"\nreward = {reward}\n'


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"own:f"', "{folder}/own.py:f"),
        ('"own.py:f"', "{folder}/own.py:f"),
        ('"package.part:f"', "{folder}/package/part.py:f"),
        ('"package:f"', "{folder}/package/__init__.py:f"),
        ('["own:f", "exact", "own:g"]', ("{folder}/own.py:f", "exact", "{folder}/own.py:g")),
        ('"protocols:f"', "{folder}/protocols.py:f"),
        ('"json:dumps"', "json:dumps"),
        ('"exact"', "exact"),
    ],
)
@pytest.mark.parametrize("start", [".", "elsewhere", "/"])
def test_a_rewards_module_is_meant_beside_the_configuration_file_wherever_one_stands(
    tmp_path, monkeypatch, written, meant, start
):
    for name in ("own.py", "package/part.py", "package/__init__.py", "protocols.py", "elsewhere/own.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    path = write(tmp_path, OWN.format(reward=written))
    monkeypatch.chdir(tmp_path / start)
    config = config_file.load(path)
    specs = (meant,) if isinstance(meant, str) else meant
    expected = tuple(each.format(folder=tmp_path) for each in specs)
    expected = expected[0] if isinstance(meant, str) else expected
    assert config.client[0].reward == expected
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "own.py").touch()
    effective = write(tmp_path / "run", config_file.dump(config))
    assert config_file.load(effective).client[0].reward == expected  # what workers and --resume read


def test_the_reward_of_an_evaluation_file_is_meant_beside_the_configuration_too(tmp_path):
    (tmp_path / "own.py").touch()
    (tmp_path / "rows.jsonl").touch()
    path = write(tmp_path, MINIMAL + '[evaluation]\ndata = "rows.jsonl"\nreward = "own:f"\n')
    evaluation = config_file.load(path).evaluation
    assert (evaluation.data, evaluation.reward) == (f"{tmp_path}/rows.jsonl", f"{tmp_path}/own.py:f")


def test_what_is_set_over_a_preset_is_meant_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "own.py").touch()
    monkeypatch.chdir(tmp_path)
    config = config_file.load("quickstart", ["client.addition.reward=own:f"])
    assert config.client[0].reward == f"{tmp_path}/own.py:f"


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(MINIMAL, encoding="utf-8-sig")
    assert config_file.load(str(path)).client[0].name == "a"


@pytest.mark.parametrize("preset", config_file.presets())
def test_what_is_set_of_budget_and_noise_takes_the_place_of_what_the_file_gives(preset):
    noise = config_file.load(preset, ["privacy.noise_multiplier=1.5"]).privacy
    assert (noise.noise_multiplier, noise.epsilon) == (1.5, None)
    budget = config_file.load(preset, ["privacy.epsilon=2.5"]).privacy
    assert (budget.epsilon, budget.noise_multiplier) == (2.5, None)


def plain_keys():
    """Every key of every table whose values are of a plain type, with a value that it takes."""
    config = config_file.load("hospitals")
    for name in type(config).model_fields:
        sections = getattr(config, name)
        for key, value in (sections[0] if isinstance(sections, tuple) else sections).model_dump(mode="json").items():
            if type(value) in WRONG:
                yield name, key, value


WRONG = {  # by the type of a value: what could be read as one of it
    bool: (1, 0, "true", "yes", 1.0),
    int: (True, "1", "ten", 1.5),
    float: (True, "1.0", "much"),
    str: (1, True, 1.0),
}


@pytest.mark.parametrize(("section", "key", "value"), sorted(plain_keys(), key=str))
def test_no_key_takes_a_value_of_another_type(section, key, value):
    table = config_file.load("hospitals").model_dump(mode="json", exclude_none=True)
    for wrong in (*WRONG[type(value)], datetime.date(2026, 1, 1), [[value]], {"x": value}):
        entry = {**(table[section][0] if section == "client" else table[section]), key: wrong}
        changed = {**table, section: [entry, *table[section][1:]] if section == "client" else entry}
        with pytest.raises(ConfigError) as refusal:
            config_file.parse(changed, "here.toml")
        said = str(refusal.value)
        assert said.startswith(f"here.toml: {section}.")
        assert key in said
        assert "\n" not in said


def test_texts_that_a_model_reads_may_have_lines_and_survive_the_file(tmp_path):
    path = write(tmp_path, MINIMAL + '[grpo]\nstop = ["\\n", "\\t\\n\\n"]\nsystem_prompt = """\nFirst.\nSecond."""\n')
    config = config_file.load(path)
    assert config.grpo.stop == ("\n", "\t\n\n")
    assert config.grpo.system_prompt == "First.\nSecond."
    assert config_file.load(write(tmp_path, config_file.dump(config))) == config


@pytest.mark.parametrize(
    ("key", "text"), [("grpo.stop", '["\\u001b[2J"]'), ("grpo.system_prompt", '"a\\rb"'), ("run.name", '"a\\nb"')]
)
def test_other_texts_and_other_signs_than_lines_are_refused(tmp_path, key, text):
    with pytest.raises(ConfigError, match=key):
        config_file.load(write(tmp_path, MINIMAL), [f"{key}={text}"])
