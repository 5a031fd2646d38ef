"""Unusable input: one sentence that names the file, the key and what is allowed; exit 2; nothing made, nothing lost."""

import json
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

FIRST = '[[client]]\nname = "add"\ntask = "add"\n'


# -------------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("federation.round=3", r"federation.round is not a known key; did you mean 'rounds'\?"),
        ("federated.rounds=3", r"federated is not a known key; did you mean 'federation'\?"),
        ("privacy.zzz=3", r"privacy.zzz is not a known key; allowed are unit, epsilon"),
        ("federation.rounds=many", r"federation.rounds must be an integer.*'many'"),
        ("federation.rounds=0", r"federation.rounds must be an integer at least 1 .*, not 0"),
        ("federation.rounds=1.5", r"federation.rounds must be an integer"),
        ("weighting.rule=best", r"weighting.rule must be .*\"linear\" or \"uniform\", not 'best'"),
        ("weighting.min_weight=0", r"weighting.min_weight must be a number at least 1e-09 and below 1, not 0"),
        ("weighting.gain_clip=nan", r"weighting.gain_clip must be a number above 0, not nan"),
        ("server.learning_rate=inf", r"server.learning_rate must be a number above 0, not inf"),
        ("privacy.epsilon=-1", r"privacy.epsilon must be a number at least"),
        ("privacy.clip_norm=1e300", r"privacy.clip_norm must be .* at most"),
        ("engine.faults.sleep=0.1", r"--set: engine.faults.sleep must be .*by step: announce"),
        ("engine.faults.mask=1.0", r"engine.faults.mask must be .*below 1"),
        ("run.name=../elsewhere", r"run.name must be letters, digits"),
        ("grpo=5", "not of the form section.key=value"),
        ("grpo.epsilon", "not of the form section.key=value"),
        ("client.nobody.count=3", "names no client; write client.NAME.key=value"),
        ("client.add.count=0", r"client.add.count must be an integer at least 1"),
        ("federation.clients=9", r"federation.clients is 9, but the \[\[client\]\] tables make 8 clients"),
        ("federation.clients_per_round=9", "clients_per_round is 9; there are only 8 clients"),
        ("federation.clients_per_round=6", "schedule = 'blocks'"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_setting_that_cannot_be_is_named_with_what_is_allowed(refused, config, command, override, said):
    assert re.search(said, refused(command, config(), "--set", override))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[run\n", "not valid TOML"),
        ("", "client is missing"),
        ("client = 5\n", r"\[client\] must be given, as \[\[client\]\] tables"),
        ("client = []\n", "client is missing: "),
        ("client = [5]\n", "client.number 1 must be a table, not 5"),
        ("run = 5\n" + FIRST, r"line 1: \[run\] must be a table, not 5"),
        (FIRST + FIRST, "two .* same name"),
        ('[[client]]\nname = "a"\n', "needs exactly one of 'task' and 'data'"),
        ('[[client]]\nname = "a"\ntask = "add"\ndata = "x"\n', "needs exactly one of 'task' and 'data'"),
        ('[[client]]\nname = "a"\ndata = "x.jsonl"\n', "needs a 'reward'"),
        ('[[client]]\nname = "a/b"\ntask = "add"\n', r"client.number 1.name must be letters, digits"),
    ],
)
def test_a_file_that_is_no_configuration_is_named_with_the_reason(refused, tmp_path, text, said):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    sentence = refused("run", path)
    assert "broken.toml" in sentence
    assert re.search(said, sentence)


def test_a_configuration_that_is_not_text_is_refused(refused, tmp_path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not a UTF-8 text file" in refused("run", path)


def test_an_unknown_preset_is_refused_with_the_names_of_all(refused):
    sentence = refused("run", "quickstat")
    assert "quickstat" in sentence
    for preset in ("quickstart", "quickstart-no-dp", "quickstart-uniform", "silos"):
        assert preset in sentence


# ----------------------------------------------------------------------------------------------------- impossible plans


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["aggregation.max_dropout=0.9"], r"max_dropout = 0\.9 may leave .*nearest feasible: max_dropout"),
        (["aggregation.max_corrupt=0.8"], r"may collude.*nearest feasible"),
        (["privacy.epsilon=1e-6"], r"sampler's range; nearest feasible: noise_multiplier"),
        (["privacy.epsilon=5000"], r"cannot be stated at this delta; nearest feasible: epsilon"),
        (
            ["federation.rounds=10", "federation.max_rounds_per_client=4"],
            r"participations.*nearest feasible: rounds = 4",
        ),
        (["client.add.task=poetry"], r"task 'poetry'; allowed are .*add"),
        (["client.add.reward=generous"], r"reward 'generous'; allowed are contains, exact.*'module:function'"),
        (["client.add.reward=nowhere:reward"], r"reward 'nowhere:reward': module 'nowhere' cannot be imported"),
        (["client.add.reward=math:nothing"], r"module 'math' has no 'nothing'"),
        (["adapter.targets=['attention']"], r"adapter.targets names 'attention', but the model has no module"),
        (["adapter.init_from=nowhere"], r"adapter.init_from 'nowhere' is not a PEFT adapter folder"),
        (["model.path=./nowhere"], r"model.path './nowhere' does not exist"),
        (["model.device=abacus"], r"model.device 'abacus' is not available"),
        (["evaluation.data=nowhere.jsonl"], r"no data file nowhere.jsonl"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_starts(refused, config, overrides, said):
    arguments = [part for override in overrides for part in ("--set", override)]
    assert re.search(said, refused("run", config(), "--out", "out", *arguments))


def test_more_dropouts_than_the_thresholds_allow_name_the_most_that_they_do(refused, fgrpo, config):
    sentence = refused("plan", config(), "--set", "aggregation.max_dropout=0.5")
    nearest = re.search(r"max_dropout = ([0-9.]+)$", sentence)
    assert nearest
    assert fgrpo("plan", config(), "--set", f"aggregation.max_dropout={nearest[1]}").exit_code == 0
    more = float(nearest[1]) + 0.125
    assert fgrpo("plan", config(), "--set", f"aggregation.max_dropout={more}").exit_code == 2


# ----------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('{"prompt": "1+1=", "answer": "2"}\nPLANTED\n', r"rows.jsonl, line 2 is not JSON"),
        ('{"prompt": "1+1=", "answer": "2"}\n[PLANTED]\n', r"rows.jsonl, line 2 is not JSON"),
        ('["PLANTED"]\n', r"rows.jsonl, line 1 is JSON but not an object"),
        ('{"answer": "PLANTED"}\n', r'rows.jsonl, line 1 has no "prompt"'),
        ('{"prompt": "PLANTED"}\n', r'rows.jsonl, line 1 lacks the string "answer"'),
        ('{"prompt": "PLANTED", "answer": NaN}\n', r"rows.jsonl, line 1 is not JSON"),
        ("\n\n", r"rows.jsonl has no rows"),
        ('{"prompt": "' + "1+" * 200 + '=", "answer": "2"}\n', r"a prompt of 401 tokens and 8 new ones do not fit"),
    ],
    ids=["no JSON", "no JSON list", "list", "no prompt", "no answer", "NaN", "empty", "too long"],
)
def test_data_that_cannot_be_used_is_named_by_file_and_line_and_never_quoted(refused, config, tmp_path, rows, said):
    (tmp_path / "rows.jsonl").write_text(rows)
    table = '[[client]]\nname = "add"\ndata = "rows.jsonl"\nreward = "exact"\n'
    sentence = refused("run", config((FIRST, table)), "--out", "out")
    assert re.search(said, sentence)
    assert "PLANTED" not in sentence
    assert refused("plan", config((FIRST, table))) == sentence


REFUSED_BY_BOTH = [
    ("client.add.task=poetry", "task 'poetry'"),
    ("client.add.reward=generous", "reward 'generous'"),
    ("client.add.reward=nowhere:reward", "cannot be imported"),
    ("client.add.reward=rw:asks", "asks for 'nothing', which no row has"),
    ("client.add.reward=rw:missing", "has no 'missing'"),
    ("client.add.reward=rw:number", "is not callable"),
    ("client.add.reward_weights=[1, 2]", "client 'add' has 2 reward_weights for 1 rewards"),
    ("evaluation.data=nowhere.jsonl", "no data file nowhere.jsonl"),
    ("evaluation.reward=rw:missing", "has no 'missing'"),
    ("evaluation.reward=rw:asks", "evaluation: reward .* asks for 'nothing'"),
    ("model.path=./nowhere", "does not exist"),
    ("model.path=empty", "has no config.json"),
    ("grpo.max_completion_length=60", "do not fit the model's context of 64"),
    ("adapter.targets=['attention']", "the model has no module"),
]


@pytest.mark.parametrize(("override", "said"), REFUSED_BY_BOTH)
def test_a_plan_refuses_what_a_run_refuses_in_the_same_words(refused, config, tmp_path, override, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "rw.py").write_text(
        "def asks(completions, nothing, **_):\n    return [1.0 for _ in completions]\nnumber = 3\n"
    )
    sentence = refused("plan", config(), "--set", override.replace("rw:", f"{tmp_path}/rw.py:"))
    assert re.search(said, sentence)
    assert refused("run", config(), "--out", "out", "--set", override.replace("rw:", f"{tmp_path}/rw.py:")) == sentence


def test_a_hub_id_that_cannot_be_had_is_refused_at_once(refused, config, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("PLANTED")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    for command in ("plan", "run"):
        sentence = refused(command, config(), "--set", "model.path=someone/some-model")
        assert "'someone/some-model' is no folder here, and the hub cannot be reached" in sentence


def test_a_plan_counts_rows_and_says_what_only_the_model_can_tell(fgrpo, config, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2+1=", "answer": "3"}\n{"prompt": "1+1=", "answer": "2"}\n')
    table = '[[client]]\nname = "add"\ndata = "rows.jsonl"\nreward = "exact"\n'
    facts = json.loads(fgrpo("plan", config((FIRST, table)), "--json").stdout)
    assert (facts["inputs.rows"], facts["inputs.not_checked"]) == ({"add": 2}, [])


def test_a_missing_data_file_is_named(refused, config):
    table = '[[client]]\nname = "add"\ndata = "rows.jsonl"\nreward = "exact"\n'
    assert "there is no data file rows.jsonl" in refused("run", config((FIRST, table)))


@pytest.fixture
def model_folder(tmp_path):
    """A copy of the shipped model, to take things from."""
    with resources.as_file(resources.files("fgrpo_secure.learning.tasks") / "base_model") as shipped:
        shutil.copytree(shipped, tmp_path / "model")
    return tmp_path / "model"


def test_a_model_folder_without_weights_is_refused(refused, config, model_folder):
    for weights in model_folder.glob("*.safetensors"):
        weights.unlink()
    assert "holds no weights" in refused("run", config(), "--set", "model.path=model")


def test_a_model_folder_with_damaged_weights_is_refused(refused, config, model_folder):
    weights = next(model_folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.path" in refused("run", config(), "--set", "model.path=model")


def test_a_model_folder_without_a_tokenizer_is_refused(refused, config, model_folder):
    for part in model_folder.glob("*token*"):
        part.unlink()
    assert "no tokenizer" in refused("run", config(), "--set", "model.path=model")


def test_a_model_folder_without_a_configuration_is_refused(refused, config, model_folder):
    (model_folder / "config.json").unlink()
    assert "has no config.json" in refused("run", config(), "--set", "model.path=model")


# ------------------------------------------------------------------------------------------------------ run directories


@pytest.fixture
def old_run(tmp_path):
    """A directory that looks like an earlier run."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.toml").write_text("# mine")
    (tmp_path / "out" / "summary.json").write_text("{}")
    return tmp_path / "out"


def test_a_directory_that_holds_a_run_is_left_as_it_is(refused, config, old_run):
    sentence = refused("run", config(), "--out", old_run)
    assert "holds a run already" in sentence
    assert f"--resume {old_run}" in sentence


def test_a_folder_that_holds_no_run_is_not_said_to_hold_a_wrong_one(refused, tmp_path):
    sentence = refused("verify", tmp_path)
    assert sentence.endswith("holds no run: none of config.toml, opening.json, manifest.json, summary.json is in it")


def test_clients_of_an_earlier_run_are_left_as_they_are(refused, config, tmp_path):
    (tmp_path / "out.owners").mkdir()
    (tmp_path / "out.owners" / "authority.key").write_bytes(b"old")
    assert "holds the clients of an earlier run" in refused("run", config(), "--out", "out")


def test_an_output_path_that_is_a_file_is_refused(refused, config, tmp_path):
    (tmp_path / "out").write_text("precious")
    assert "out cannot hold a run: File exists" in refused("run", config(), "--out", "out")


def test_an_output_path_below_a_file_is_refused(refused, config, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert "file/out cannot hold a run: Not a directory" in refused("run", config(), "--out", "file/out")


@pytest.mark.parametrize("made", [False, True])
def test_resuming_where_no_run_is_is_refused(refused, tmp_path, made):
    if made:
        (tmp_path / "out").mkdir()
    assert "holds no run" in refused("run", "--resume", "out")


def test_resuming_with_a_new_configuration_is_refused(refused, config, old_run):
    for more in ([config()], ["--set", "run.seed=2"], ["--out", "elsewhere"]):
        assert "keeps its own configuration" in refused("run", *more, "--resume", old_run)


def test_resuming_a_run_whose_clients_are_gone_is_refused(refused, config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.toml").write_text(config().read_text())
    assert "out.owners does not hold the clients of this run" in refused("run", "--resume", "out")


# ------------------------------------------------------------------------------------------------------ real processes


def shell(*arguments, folder):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "fgrpo_secure", *arguments]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_real_command_says_one_sentence_and_exits_with_2(config, tmp_path):
    config()
    done = shell("run", "small.toml", "--set", "federation.round=3", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fgrpo: small.toml, --set: federation.round is not a known key; did you mean 'rounds'?\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.toml"]


@pytest.mark.slow
def test_the_real_command_plans_as_json_and_exits_with_0(config, tmp_path):
    config()
    done = shell("plan", "small.toml", "--json", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verdict"]
