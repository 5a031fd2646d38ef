"""The contract of trainers, whoever wrote them: they learn the task, leave the policy as it was, and fail unseen."""

import base64
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from fgrpo_secure.client.boundary import UnusableRound
from fgrpo_secure.client.owner import make_owners
from fgrpo_secure.config import own_file
from fgrpo_secure.config.files import ConfigError, load
from fgrpo_secure.config.schema import Adapter, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.evaluation import evaluate
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.isolated_reward import Limits
from fgrpo_secure.learning.grpo.rewards import RewardError
from fgrpo_secure.learning.tasks import reward_of
from fgrpo_secure.learning.trainers import trainer_process
from fgrpo_secure.learning.trainers.trainer_process import TrainerError
from fgrpo_secure.plan import round_settings

SUMS = {
    "12+3=": "15",
    "40-7=": "33",
    "25+6=": "31",
    "61-9=": "52",
    "33+8=": "41",
    "70-4=": "66",
    "18+5=": "23",
    "52-3=": "49",
}
SECRET = "a-secret-row"
OWN = '''
"""An owner's own trainer: REINFORCE with groups, by transformers' generate."""
import os
import torch

def train(lesson):
    torch.manual_seed(lesson.seed % 2**32)
    model, tokenizer = lesson.adapter, lesson.tokenizer
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lesson.settings.learning_rate)
    (pay,) = lesson.rewards.values()
    each, first = len(lesson.rows) // lesson.steps, []
    for step in range(lesson.steps):
        optimizer.zero_grad()
        for row in lesson.rows[step * each:(step + 1) * each]:
            asked = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
            made = model.generate(
                input_ids=asked, attention_mask=torch.ones_like(asked), do_sample=True, top_k=0,
                num_return_sequences=lesson.settings.num_generations, max_new_tokens=lesson.options["tokens"],
            )
            said = made[:, asked.shape[1]:]
            texts = tokenizer.batch_decode(said, skip_special_tokens=True)
            paid = torch.tensor(pay(completions=texts, answer=[row["answer"]] * len(texts)))
            first += paid.tolist() if step == 0 else []
            logp = model(input_ids=made).logits[:, asked.shape[1] - 1:-1].log_softmax(-1)
            logp = logp.gather(2, said.unsqueeze(2)).squeeze(2).sum(1)
            (-(paid - paid.mean()) / (paid.std() + 1e-4) * logp).mean().backward()
        optimizer.step()
    return first

def raises(lesson):
    raise ValueError(lesson.rows[0]["prompt"])

def hangs(lesson):
    import time
    time.sleep(600)

def limits(lesson):
    (pay,) = lesson.rewards.values()
    return [pay.limits.seconds, pay.limits.memory_mib]

def pay(completions, **_):
    return [1.0] * len(completions)

def dies(lesson):
    os._exit(0)

def spoils(lesson):
    print("to nobody")
    with torch.no_grad():
        for each in lesson.adapter.parameters():
            if each.requires_grad:
                each.fill_(float("nan"))
'''
CONFIG = """
[adapter]
rank = 4
targets = ["o_proj", "down_proj"]
[federation]
local_steps = 24
[grpo]
num_generations = 8
prompts_per_step = 4
learning_rate = 1e-2
max_completion_length = 4
[privacy]
unit = "none"
[[client]]
name = "mine"
data = "rows.jsonl"
reward = "exact"
"""


@pytest.fixture(scope="module")
def adapted():
    return adapters.attach(models.load(Model()), Adapter(rank=4, targets=("o_proj", "down_proj")), 0)


@pytest.fixture
def configure(tmp_path):
    """A configuration with sums,, and a trainer of the owner's own or none."""

    def made(trainer=None, more=""):
        rows = [{"prompt": prompt, "answer": answer} for prompt, answer in SUMS.items()]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "own.py").write_text(OWN)
        named = "" if trainer is None else f'trainer = "{trainer}"\n'
        (tmp_path / "run.toml").write_text(CONFIG + named + more)
        return load(str(tmp_path / "run.toml"))

    return made


def owner_of(config, folder):
    (owner,) = make_owners(config.client, config.run.seed, {0}, folder / "owners").values()
    return owner


def right(adapted, config):
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in SUMS.items()]
    drawn = Streams(5)
    return evaluate(adapted, rows, reward_of(config.client[0], "exact"), config.grpo, 16, drawn).pass_rate


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("trainer", "more"),
    [
        (None, ""),
        ("own:train", "trainer_settings = {tokens = 4}\n"),
        ("trl", "trainer_settings = {adam_beta2 = 0.99}\n"),
    ],
    ids=["built-in", "callable", "trl"],
)
def test_every_trainer_learns_the_task_and_leaves_the_policy_as_it_was(adapted, configure, tmp_path, trainer, more):
    if trainer == "trl":
        pytest.importorskip("trl")
    config = configure(trainer, more=more)
    settings, before = round_settings.for_round(config, 0, 0), adapted.adapter_digest()
    trained = owner_of(config, tmp_path).train(adapted, settings)
    assert adapted.adapter_digest() == before
    assert trained.update.shape == (adapted.dimension(0),)
    untrained = right(adapted, config)
    assert abs(trained.observation.mean - untrained) < 0.25, "the rewards are those of the model as received"
    received = adapted.get_vector(0)
    try:
        adapted.set_vector(0, received + trained.update)
        assert right(adapted, config) > untrained + 0.3
    finally:
        adapted.set_vector(0, received)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("trainer", [None, "trl"])
def test_the_kl_term_draws_every_trainer_to_the_runs_start_and_not_to_what_a_round_began_with(
    adapted, configure, tmp_path, trainer
):
    """Rewards are all equal, so that nothing else draws it anywhere."""
    if trainer == "trl":
        pytest.importorskip("trl")
    more = 'trainer_settings = {scale_rewards = "none"}\n' if trainer else ""
    configure(trainer, more)
    table = (tmp_path / "run.toml").read_text().replace('reward = "exact"', 'reward = "own:pay"')
    (tmp_path / "run.toml").write_text(table)
    changes = ["grpo.beta=1.0", "grpo.optimizer=sgd", "grpo.learning_rate=1.0", "federation.local_steps=4"]
    config, start = load(str(tmp_path / "run.toml"), changes), adapted.get_vector(0)
    moved = start + 0.05 * np.random.default_rng(4).standard_normal(start.shape)
    try:
        adapted.set_vector(0, moved)
        update = owner_of(config, tmp_path).train(adapted, round_settings.for_round(config, 0, 0)).update
    finally:
        adapted.set_vector(0, start)
    assert np.linalg.norm(update) > 1e-3
    assert update @ (start - moved) > 0


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("raises", r"trainer 'own\.py:raises' raised ValueError in own\.py, line 32$"),
        ("hangs", r"own\.py:hangs' took longer than 3 seconds$"),
        ("dies", r"ended its process"),
        ("spoils", r"local training diverged"),
    ],
)
def test_a_trainer_that_fails_is_a_sentence_for_the_owner_that_quotes_nothing(
    adapted, configure, tmp_path, function, sentence
):
    config = configure(f"own:{function}")
    if function == "hangs":
        config = load(str(tmp_path / "run.toml"), ["federation.training_seconds=3"])
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": SECRET, "answer": "7"}) + "\n")
    with pytest.raises(UnusableRound, match=sentence) as raised:
        owner_of(config, tmp_path).train(adapted, round_settings.for_round(config, 0, 0))
    assert SECRET not in str(raised.value)


def test_a_repeat_without_noise_is_not_trained_by_a_trainer_that_may_repeat_itself(adapted, configure, tmp_path):
    config = configure("own:train")
    with pytest.raises(UnusableRound, match="may give the same update again"):
        replace(owner_of(config, tmp_path), repeats=1).train(adapted, round_settings.for_round(config, 0, 0))


@pytest.mark.parametrize("unit", ["prompt_group", "subject"])
def test_units_below_the_client_refuse_trainers_that_return_one_update_for_all(configure, tmp_path, unit):
    config = configure("own:train")
    private = f"privacy.unit '{unit}' clips every unit's gradient by itself"
    small = tmp_path / "small.toml"
    small.write_text(
        f'[privacy]\nunit = "{unit}"\nepsilon = 8.0\nunits_per_client = 8\n[[client]]\nname = "mine"\n'
        'data = "rows.jsonl"\nsubject = "answer"\nreward = "exact"\n'
    )
    load(str(small))
    small.write_text(small.read_text() + 'trainer = "own:train"\n')
    with pytest.raises(ConfigError, match=private):
        load(str(small))
    assert config.client[0].trainer == f"{tmp_path}/own.py:train"
    (tmp_path / "client.toml").write_text(
        'name = "mine"\n[data]\ndata = "rows.jsonl"\nreward = "contains"\ntrainer = "own:train"\n'
    )
    own = own_file.load(tmp_path / "client.toml")
    assert own.client().trainer == f"{tmp_path}/own.py:train"
    with pytest.raises(ConfigError, match=rf"client\.toml: .*{private}"):
        own_file.check_unit(own, unit, str(tmp_path / "client.toml"))
    own_file.check_unit(own, "client", "client.toml")


def test_a_trainer_that_cannot_be_is_refused_before_a_run(tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('at import')\n")
    for spec, sentence in (
        ("no_such_module:train", "trainer 'no_such_module:train': module 'no_such_module' cannot be imported"),
        (f"{tmp_path}/broken.py:train", "raised RuntimeError in broken.py, line 1"),
        ("json:JSONDecode", "module 'json' has no 'JSONDecode'"),
    ):
        with pytest.raises(TrainerError) as raised:
            trainer_process.check(spec, {})
        assert sentence in str(raised.value)
    trainer_process.check("json:loads", {})


def test_fields_that_trl_does_not_have_or_that_a_run_fixes_are_refused():
    pytest.importorskip("trl")
    from fgrpo_secure.learning.trainers import trl_trainer  # needs TRL

    with pytest.raises(RewardError, match=r"trainer_settings\.lerning_rate is no field"):
        trl_trainer.check({"lerning_rate": 1.0})
    with pytest.raises(RewardError, match=r"trainer_settings\.max_steps is fixed"):
        trl_trainer.check({"max_steps": 3})
    trl_trainer.check({"adam_beta2": 0.99})


SAYS_WHO = "pathlib.Path({folder!r}, 'pid').write_text(str(os.getpid()))"
LASTING = {
    "asleep": f"{SAYS_WHO}; time.sleep(600)",
    "holding the interpreter": f"{SAYS_WHO}; ctypes.PyDLL(None).sleep(600)",
    "started by it": f"os.fork() or ({SAYS_WHO}, time.sleep(600)); time.sleep(600)",
    "in a session of its own": f"os.fork() or (os.setsid(), {SAYS_WHO}, time.sleep(600)); time.sleep(600)",
}
ASK = """
from fgrpo_secure.learning.trainers import trainer_process
try:
    trainer_process.check({spec!r}, {{}})
except trainer_process.TrainerError as problem:
    print(problem)
"""


def asking(folder, code):
    """A process that asks for a trainer whose module runs `code`."""
    (folder / "slow.py").write_text(f"import ctypes, os, pathlib, signal, time\n{code.format(folder=str(folder))}\n")
    return subprocess.Popen(
        [sys.executable, "-c", ASK.format(spec=f"{folder}/slow.py:train")], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("code", LASTING.values(), ids=LASTING)
def test_a_trainer_and_what_it_started_end_with_the_process_that_asked_for_it(tmp_path, code):
    asker, pid = asking(tmp_path, code), tmp_path / "pid"
    until(lambda: pid.exists() and pid.read_text())
    asker.kill()
    asker.communicate()
    until(lambda: not alive(int(pid.read_text())))


def test_a_trainer_that_kills_its_parent_ends_its_own_process_alone(tmp_path):
    said, _ = asking(tmp_path, "os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)").communicate()
    assert "slow.py:train' ended its process" in said


def test_what_hangs_when_it_is_imported_is_refused_before_a_run(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(TrainerError, match=r"took longer than 2 seconds"):
        trainer_process.check(f"{tmp_path}/slow.py:train", {}, 2.0)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(happened, seconds=60):
    for _ in range(seconds * 10):
        if happened():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen")


FORGED = [[[]], [1e308] * 4, [1e200, -1e200, 5.0], [float("nan")], ["1"], [None], {"a": 1.0}, "x", None, 7, [10**400]]


@pytest.mark.parametrize("rewards", FORGED, ids=lambda rewards: str(rewards)[:9])
def test_rewards_that_are_no_numbers_are_a_sentence_for_the_owner_and_no_warning(
    adapted, configure, tmp_path, monkeypatch, recwarn, rewards
):
    update = base64.b64encode(np.zeros(adapted.dimension(0)).tobytes()).decode()
    config = configure("own:train")
    monkeypatch.setattr(trainer_process, "call", lambda *_: {"update": update, "rewards": rewards})
    with pytest.raises(UnusableRound, match=r"the trainer's rewards must be numbers from -1e\+09 to 1e\+09"):
        owner_of(config, tmp_path).train(adapted, round_settings.for_round(config, 0, 0))
    assert not recwarn.list


def test_a_trainer_calls_rewards_within_the_limits_of_their_owner(adapted, configure, tmp_path):
    config = configure("own:limits")
    (tmp_path / "run.toml").write_text((tmp_path / "run.toml").read_text().replace('"exact"', '"own:pay"'))
    config = load(str(tmp_path / "run.toml"))
    owner = owner_of(config, tmp_path).limited(Limits(seconds=7.0, memory_mib=1025))
    assert owner.train(adapted, round_settings.for_round(config, 0, 0)).observation.mean == (7 + 1025) / 2


def test_what_a_trainer_sends_back_is_as_long_as_the_rounds_factors(adapted, configure, tmp_path, monkeypatch):
    config = configure("own:train")
    monkeypatch.setattr(trainer_process, "call", lambda *_: {"update": "", "rewards": []})
    with pytest.raises(UnusableRound, match=f"left 0 numbers where the round's factors have {adapted.dimension(0)}"):
        owner_of(config, tmp_path).train(adapted, round_settings.for_round(config, 0, 0))
    assert os.path.exists(tmp_path / "owners")
    assert np.isfinite(adapted.get_vector(0)).all()
