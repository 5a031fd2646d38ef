"""What a run's start refuses in one sentence, before anything is paid: rewards that never work, rows twice."""

import json

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.grpo.rewards import RewardError
from fgrpo_secure.learning.pass_rates import Examination
from fgrpo_secure.learning.tasks import UnusableData
from fgrpo_secure.run import inputs, preflight

REWARDS = """
def right(completions, **kw): return [float(len(c)) for c in completions]
def needs_solution(completions, solution, **kw): return [float(c == s) for c, s in zip(completions, solution)]
async def later(completions, **kw): return [float(len(c)) for c in completions]
def state(completions, trainer_state, log_metric, log_extra):
    log_metric("mean", 0.5), log_extra("said", completions)
    return [float(len(c)) + trainer_state.global_step for c in completions]
def nested(completions, **kw): return [[float(len(c))] for c in completions]
def never(completions, **kw): return [None] * len(completions)
def raises(completions, answer, **kw): raise KeyError(answer[0])
def sometimes(completions, prompts, **kw):
    if prompts[0].startswith("0"): raise ValueError(prompts[0])
    return right(completions)
"""
NAMES = ("one", "two")


@pytest.fixture
def start(tmp_path):
    """Runs the checks of a start: two clients with a file each, six with a task."""
    (tmp_path / "rw.py").write_text(REWARDS)
    for place, name in enumerate(NAMES):
        rows = [{"prompt": f"{row}+{10 + place}=", "answer": f"PLANTED{row}"} for row in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def check(reward='"rw:right"', more="", **changes):
        data = {name: changes.get(name, f"{name}.jsonl") for name in NAMES}
        clients = "".join(
            f'[[client]]\nname = "{name}"\ndata = "{data[name]}"\nreward = {reward}\n'
            f"{changes.get(name + '_more', '')}\n"
            for name in NAMES
        )
        text = (
            f'{clients}[[client]]\nname = "others"\ntask = "add"\ncount = 6\n{more}\n[adapter]\nrank = 1\n'
            "[privacy]\nepsilon = 60.0\n[aggregation]\nmax_dropout = 0.25\n"
        )
        (tmp_path / "run.toml").write_text(text)
        config = config_file.load(str(tmp_path / "run.toml"))
        adapted = adapters.attach(models.load(config.model), config.adapter, 0)
        inputs.check(config)
        preflight.check(config, adapted, Examination.prepare(config))

    return check


@pytest.mark.parametrize(
    "reward", ['"rw:right"', '["rw:right", "exact"]', '"rw:sometimes"', '"rw:later"', '"rw:state"']
)
def test_a_reward_that_works_on_some_row_passes(start, reward):
    start(reward)


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        ('"rw:needs_solution"', r"client 'one': reward '.*needs_solution' asks for 'solution', which no row has"),
        ('"rw:nested"', "worked on none of its first 4 rows: nested returned something that is not a number"),
        ('"rw:never"', "worked on none of its first 4 rows"),
        ('"rw:raises"', r"raises raised KeyError in rw\.py, line 10; it was called with answer, prompts"),
    ],
)
def test_a_reward_that_never_works_is_refused_before_anything_is_spent(start, reward, sentence):
    with pytest.raises(RewardError, match=sentence) as caught:
        start(reward)
    assert "PLANTED" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_for_another_number_of_rewards_are_refused(start):
    with pytest.raises(ConfigError, match=r"client 'two' has 1 reward_weights for 2 rewards; give one each"):
        start('["rw:right", "rw:right"]', two_more="reward_weights = [1.0]")
    start('["rw:right", "exact"]', one_more="reward_weights = [1.0, 0.5]")


def test_a_prompt_that_the_model_has_no_symbols_for_is_refused_by_its_number(start, tmp_path):
    (tmp_path / "odd.jsonl").write_text('{"prompt": "1+1="}\n{"prompt": "1+\u00fc="}\n')
    with pytest.raises(UnusableData, match=r"client 'one': a prompt cannot be used: prompt 2 holds 1 symbols"):
        start(one="odd.jsonl")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"one_more": "count = 3"}, "its copies would read one file, so each row would be in 3 clients"),
        ({"two": "one.jsonl"}, "two .* tables read the same data file"),
        ({"more": '[evaluation]\ndata = "one.jsonl"\nreward = "exact"'}, "is a client's data file"),
    ],
)
def test_one_file_in_two_places_is_refused_by_the_configuration(start, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        start(**changes)


def test_a_row_that_two_clients_hold_is_refused_however_it_is_written(start, tmp_path):
    with (tmp_path / "two.jsonl").open("a") as file:
        file.write('{ "answer": "PLANTED3",  "prompt": "3+10=" }\n')
    with pytest.raises(UnusableData, match=r"two\.jsonl, line 7 is also .*one\.jsonl, line 4") as caught:
        start()
    assert "PLANTED" not in str(caught.value)


def test_an_evaluation_prompt_that_a_client_trains_on_is_refused(start, tmp_path):
    (tmp_path / "public.jsonl").write_text('{"prompt": "77-1=", "answer": "76"}\n{"prompt": "2+11=", "answer": "x"}\n')
    with pytest.raises(UnusableData, match=r"public\.jsonl, line 2 has the prompt of .*two\.jsonl, line 3"):
        start(more='[evaluation]\ndata = "public.jsonl"\nreward = "exact"')


def test_a_prompt_that_no_tokenizer_reads_is_refused_in_one_sentence(start, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"prompt": "\\ud800", "answer": "1"}\n')
    with pytest.raises(UnusableData, match="client 'two': a prompt cannot be used: "):
        start()
