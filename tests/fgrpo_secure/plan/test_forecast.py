"""What the planner expects a budget to leave, held against measured runs, and what it recommends for it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.config import files as config_file
from fgrpo_secure.plan import adapter_shape, forecast, run_plan

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def planned(*overrides, preset="quickstart"):
    config = config_file.load(preset, overrides)
    return config, run_plan.plan(config, adapter_shape.read(config.model.path, config.adapter))


def recommended(*overrides, preset="quickstart"):
    config, privacy = planned(*overrides, preset=preset)
    return config, privacy, forecast.improvements(config, privacy)


def test_the_formula_for_exactness_is_within_a_fifth_of_every_measured_shape():
    rows = [json.loads(line) for line in (RESULTS / "direction.jsonl").read_text().splitlines()]
    assert len({(row["prompts"], row["completions"]) for row in rows}) >= 9
    for row in rows:
        seen = (row["A"] + row["B"]) / 2
        assert forecast.exactness(row["prompts"], row["completions"]) == pytest.approx(seen, rel=0.2), row


@given(st.integers(1, 500), st.integers(2, 64))
def test_prompts_make_a_direction_more_exact_than_completions_do_at_the_same_work(prompts, completions):
    now = forecast.exactness(prompts, completions)
    assert 0 < now < forecast.exactness(2 * prompts, completions) < 1
    assert now < forecast.exactness(prompts, 2 * completions) < forecast.exactness(2 * prompts, completions)


@given(st.floats(1, 1e9), st.integers(1, 10**7), st.floats(0.01, 0.99))
def test_what_noise_leaves_is_a_share_that_grows_with_the_budget_and_falls_with_the_adapter(useful, trained, exact):
    left = forecast.kept(useful, trained, exact)
    assert 0 < left < 1
    assert left <= forecast.kept(2 * useful, trained, exact)
    assert left >= forecast.kept(useful, 2 * trained, exact)
    assert forecast.kept(None, trained, exact) == 1.0


def test_quickstart_is_forecast_to_learn_down_to_epsilon_two_and_perhaps_at_one():
    verdicts = {epsilon: planned(f"privacy.epsilon={epsilon}")[1].verdict for epsilon in (8, 4, 2, 1, 0.5)}
    assert [verdicts[epsilon] for epsilon in (8, 4, 2)] == ["can learn"] * 3
    assert verdicts[1].startswith("may learn: ")
    assert verdicts[0.5].startswith("cannot learn: ")


def test_both_kinds_of_rounds_count_as_one_adapter():
    _, privacy = planned()
    facts = privacy.facts()
    assert (facts["adapter.dimension"], facts["adapter.trained_dimension"]) == (3072, 4096)
    z_squared = 256 * privacy.share_variance / privacy.lattice.integer_bound**2
    assert privacy.useful_dimension == pytest.approx(12 * 256**2 / z_squared)


def test_more_prompts_with_fewer_completions_are_recommended_at_the_same_work():
    config, privacy, changes = recommended("grpo.num_generations=8", "grpo.prompts_per_step=4")
    shape = changes[0]
    assert shape.overrides == ("grpo.prompts_per_step=8", "grpo.num_generations=4")
    again = config_file.load("quickstart", shape.overrides)
    assert forecast.of(again, privacy).kept > forecast.of(config, privacy).kept
    assert f"{forecast.of(again, privacy).kept:.0%}" in shape.says


def test_the_recommended_step_falls_with_the_noise_and_is_not_repeated_once_taken():
    steps = []
    for epsilon in (2, 1, 0.7):
        budget = f"privacy.epsilon={epsilon}"
        _, _, changes = recommended(budget)
        (step,) = [change for change in changes if change.overrides[0].startswith("server.learning_rate")]
        steps.append(float(step.overrides[0].partition("=")[2]))
        _, _, left = recommended(budget, *step.overrides)
        assert not [change for change in left if change.overrides[0].startswith("server.learning_rate")]
    assert steps == sorted(steps, reverse=True)
    np.testing.assert_allclose(steps[:2], [1.5, 0.6], rtol=0.15)


def test_every_recommendation_is_accepted_and_costs_no_privacy():
    _, privacy, changes = recommended("adapter.factors=ffa", "grpo.num_generations=8", "privacy.epsilon=2")
    assert {override.partition("=")[0] for change in changes for override in change.overrides} >= {
        "adapter.factors",
        "grpo.prompts_per_step",
        "federation.rounds",
    }
    for change in changes:
        _, again = planned("adapter.factors=ffa", "grpo.num_generations=8", "privacy.epsilon=2", *change.overrides)
        assert again.claim.epsilon <= 2.0
        assert again.claim.delta == privacy.claim.delta


@pytest.mark.parametrize("preset", ["quickstart-no-dp", "silos", "hospitals"])
def test_nothing_is_recommended_where_no_whole_update_is_clipped_under_noise(preset):
    config, privacy, changes = recommended(preset=preset)
    assert changes == ()
    if config.privacy.unit == "none":
        assert forecast.of(config, privacy).kept == 1.0
