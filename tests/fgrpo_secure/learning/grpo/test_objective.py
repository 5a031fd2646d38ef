"""The objective by hand; `test_objective_equals_trl.py` compares it with TRL's."""

import math

import pytest
import torch

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.grpo.objective import objective

# Two completions of a budget of 4 tokens: the first has 3, the second 1.
MASK = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
OLD = torch.full((2, 3), -1.0)
ADVANTAGES = torch.tensor([2.0, -1.0])


def ratios(first, second):
    """Log-probabilities whose ratios to OLD are given; what lies behind the second completion's end is rubbish."""
    rubbish = [math.exp(7.0)] * 2
    return OLD + torch.tensor([first, [*second, *rubbish]]).log()


def loss(logp, reference=None, advantages=ADVANTAGES, old=OLD, items=None, **settings):
    chosen = Grpo(**{"max_completion_length": 4, "loss_type": "grpo", **settings})
    return objective(logp, old, reference, advantages, MASK, chosen, items).item()


def test_at_ratio_one_the_loss_is_the_negative_advantage_reduced_as_named():
    logp = ratios([1, 1, 1], [1])
    # tokens: three of -2 and one of +1
    assert loss(logp, loss_type="grpo") == pytest.approx((-2 + 1) / 2)
    assert loss(logp, loss_type="dr_grpo") == pytest.approx((-6 + 1) / (2 * 4))
    assert loss(logp, loss_type="bnpo") == pytest.approx((-6 + 1) / 4)
    assert loss(logp, loss_type="dapo") == pytest.approx((-6 + 1) / 4)
    assert loss(logp, loss_type="dapo", items=torch.tensor(10.0)) == pytest.approx((-6 + 1) / 10)


def test_the_ratio_is_clipped_above_where_the_advantage_is_positive_and_below_where_it_is_negative():
    # first completion (advantage 2): 1.5 counts as 1.2, 0.5 stays; second (advantage -1): 0.5 counts as 0.8
    assert loss(ratios([1.5, 0.5, 1], [0.5])) == pytest.approx((-2 * (1.2 + 0.5 + 1) / 3 + 0.8) / 2)
    assert loss(ratios([1.5, 0.5, 1], [1.5])) == pytest.approx((-2 * (1.2 + 0.5 + 1) / 3 + 1.5) / 2)


def test_the_upper_clip_can_be_wider():
    assert loss(ratios([1.5, 1, 1], [1]), epsilon_high=0.4) == pytest.approx((-2 * (1.4 + 2) / 3 + 1) / 2)


def test_a_clipped_token_has_no_gradient():
    logp = ratios([1.5, 1.1, 0.5], [0.5]).requires_grad_()
    objective(logp, OLD, None, ADVANTAGES, MASK, Grpo(loss_type="bnpo")).backward()
    expected = torch.tensor([[0, -2 * 1.1, -2 * 0.5], [0, 0, 0]]) / 4
    torch.testing.assert_close(logp.grad, expected)


def test_at_sequence_level_every_token_has_the_geometric_mean_of_its_sequences_ratios():
    # (1.1 * 1.2 * 1) ** (1/3) = 1.0969 is inside the clip although 1.2 * 1.1 is not
    mean = (1.1 * 1.2 * 1.0) ** (1 / 3)
    found = loss(ratios([1.1, 1.2, 1.0], [0.9]), importance_sampling_level="sequence")
    assert found == pytest.approx((-2 * mean + 0.9) / 2)


def test_the_divergence_from_the_reference_is_added_with_its_weight():
    logp = ratios([1, 1, 1], [1])
    reference = logp + torch.tensor([[0.3, 0, 0], [-0.5, 0, 0]])
    first, second = (math.exp(0.3) - 0.3 - 1) / 3, math.exp(-0.5) + 0.5 - 1
    assert loss(logp, reference, beta=0.1) == pytest.approx((-2 + 1) / 2 + 0.1 * (first + second) / 2)


def test_the_divergence_is_weighted_with_the_ratio_where_its_bias_is_corrected():
    logp = ratios([1.1, 1, 1], [1])
    reference = logp + torch.tensor([[0.3, 0, 0], [0, 0, 0]])
    divergence = (math.exp(0.3) - 0.3 - 1) / 3
    plain = loss(logp, reference, beta=0.1, use_bias_correction_kl=False)
    corrected = loss(logp, reference, beta=0.1, use_bias_correction_kl=True)
    assert corrected - plain == pytest.approx(0.1 * 0.1 * divergence / 2, rel=1e-3)


def test_the_reference_is_needed_for_a_divergence():
    with pytest.raises(ValueError, match="reference model's log-probabilities"):
        loss(ratios([1, 1, 1], [1]), beta=0.1)


def test_completions_that_are_masked_altogether_give_no_loss_and_no_error():
    for kind in ("grpo", "dr_grpo", "bnpo", "dapo"):
        logp = torch.zeros(2, 3, requires_grad=True)
        found = objective(logp, OLD, None, ADVANTAGES, torch.zeros(2, 3), Grpo(loss_type=kind))
        found.backward()
        assert found == 0
        assert not logp.grad.any()


def test_a_prompt_groups_gradient_does_not_depend_on_other_groups_with_dr_grpo_alone():
    """What group- and subject-level privacy need: clipping one group's gradient bounds what it contributes."""

    def first_groups_gradient(kind, other):
        logp = torch.zeros(2, 3, requires_grad=True)
        mask = torch.tensor([[1.0, 1, 0], other])
        objective(logp, torch.zeros(2, 3), None, ADVANTAGES, mask, Grpo(loss_type=kind)).backward()
        return logp.grad[0]

    short, long = [1.0, 0, 0], [1.0, 1, 1]
    assert torch.equal(first_groups_gradient("dr_grpo", short), first_groups_gradient("dr_grpo", long))
    for coupling in ("bnpo", "dapo"):
        assert not torch.equal(first_groups_gradient(coupling, short), first_groups_gradient(coupling, long))
