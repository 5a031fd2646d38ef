"""Areas, their intervals and what epsilon allows, derived again; expected rewards are those that sampling pays."""

import numpy as np
import pytest
from scipy import integrate, stats

from fgrpo_secure.learning.grpo import rollouts
from fgrpo_secure.learning.grpo.draws import Streams
from threat_model import membership
from threat_model.learners import Learners, cosines, rows_of


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    assert membership.area(np.array([3.0, 1.0]), np.array([0.0, 1.0])).value == pytest.approx(3.5 / 4)
    assert membership.area(np.ones(5), np.ones(5)).value == 0.5
    assert membership.area(np.array([2.0]), np.array([1.0])).upper == 1.0


def test_the_upper_end_lies_above_the_true_area_as_often_as_promised():
    """400 areas at 95 %: 20 may lie below, 38 is four standard errors more."""
    generator, truth = np.random.default_rng(1), stats.norm.cdf(0.8 / np.sqrt(2))
    found = [membership.area(generator.normal(0.8, 1, 30), generator.normal(0, 1, 30)).upper for _ in range(400)]
    assert sum(upper < truth for upper in found) <= 38
    assert np.mean(found) < truth + 0.15


def test_what_is_allowed_is_reached_by_the_best_test_of_two_contributions():
    """Scores of a member and of another one, each with all of its contribution and the noise of mu-GDP: the area of
    one against the other, when both come from one sum, is that of a shift of 2 mu in noise of deviation 2.
    """
    for mu in (0.3, 0.9, 2.0):
        reached, _ = integrate.quad(lambda x, mu=mu: stats.norm.pdf(x, 2 * mu, 2), 0, 60)
        assert membership.allowed(mu) == pytest.approx(reached, abs=1e-6)


@pytest.mark.slow
def test_expected_rewards_are_the_shares_of_right_answers_that_sampling_finds():
    learners = Learners.build(grpo={"num_generations": 400, "prompts_per_step": 1})
    rows = rows_of("add", 3)
    chances = membership.expected_rewards(learners.adapted, rows)
    for row, chance in zip(rows, chances, strict=True):
        said = rollouts.sample(learners.adapted, [row["prompt"]], learners.settings.grpo, Streams(4))
        right = sum(text.strip() == row["answer"] for text in said.completions)
        assert abs(right - 400 * chance) <= 4.5 * np.sqrt(400 * chance * (1 - chance)) + 1


def test_an_owner_of_the_same_prompt_learns_the_same_and_of_another_one_something_else():
    learners = Learners.build()
    first, second = rows_of("add", 4)[1:3]
    updates = np.array([learners.update([row]).values for row in (first, first, second)])
    assert np.array_equal(updates[0], updates[1])
    assert cosines(updates, updates[0])[:2] == pytest.approx([1, 1])
    assert cosines(updates, updates[0])[2] < 0.9
