import numpy as np
import pytest

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning import evaluation
from fgrpo_secure.learning.evaluation import Score, evaluate, overall
from fgrpo_secure.learning.grpo import rollouts
from fgrpo_secure.learning.grpo.draws import Streams

ROWS = [{"prompt": f"{a}+{b}=", "answer": str((a * b) % 10)} for a in range(1, 6) for b in range(1, 5)]
SETTINGS = Grpo(max_completion_length=2)


def contains(completions, answer, **_):
    return [1.0 if right in said else 0.25 for said, right in zip(completions, answer, strict=True)]


def run(adapted, rows=ROWS, reward=contains, samples=3, seed=1):
    return evaluate(adapted, rows, reward, SETTINGS, samples, Streams(seed))


def test_the_score_counts_what_was_drawn(make_adapted):
    adapted = make_adapted()
    prompts = [row["prompt"] for row in ROWS]
    settings = SETTINGS.model_copy(update={"num_generations": 3})
    drawn = rollouts.sample(adapted, prompts, settings, Streams(1)).completions
    likeliest = rollouts.greedy(adapted, prompts, SETTINGS).completions
    passed = [row["answer"] in text for row, text in zip([row for row in ROWS for _ in range(3)], drawn, strict=True)]
    score = run(adapted)
    assert 0 < np.mean(passed) < 1
    assert score.pass_rate == pytest.approx(np.mean(passed))
    assert score.reward == pytest.approx(0.25 + 0.75 * np.mean(passed))
    assert score.greedy == pytest.approx(
        np.mean([row["answer"] in text for row, text in zip(ROWS, likeliest, strict=True)])
    )


def test_a_reward_below_one_is_no_pass(make_adapted):
    score = run(make_adapted(), reward=lambda completions, **_: [0.99] * len(completions))
    assert (score.pass_rate, score.greedy, score.reward) == (0.0, 0.0, pytest.approx(0.99))


def test_problems_in_several_batches_are_all_marked_with_their_own_columns(make_adapted, monkeypatch):
    adapted = make_adapted()
    whole = run(adapted, samples=1)
    monkeypatch.setattr(evaluation, "SEQUENCES", 7)
    parts = run(adapted, samples=1)
    assert parts == whole
    seen = []

    def note(prompts, answer, **_):
        seen.extend(zip(prompts, answer, strict=True))
        return [0.0] * len(prompts)

    run(adapted, reward=note, samples=2)
    for row in ROWS:
        assert seen.count((row["prompt"], row["answer"])) == 3  # two samples and the likeliest


def test_the_same_draws_give_the_same_score(make_adapted):
    adapted = make_adapted()
    assert run(adapted) == run(adapted)


def test_tasks_count_equally_whatever_their_size():
    assert overall([Score(0.2, 0.4, 1.0), Score(0.6, 0.0, 3.0)]) == Score(
        pytest.approx(0.4), pytest.approx(0.2), pytest.approx(2.0)
    )
