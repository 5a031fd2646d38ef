import math

import pytest
import torch

from fgrpo_secure.learning.grpo.advantages import group_advantages

REWARDS = torch.tensor([[0.0, 1.0, 2.0, 5.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)


def test_a_groups_advantages_are_centred_and_divided_by_its_unbiased_deviation():
    # mean 2; squared differences 4 + 1 + 0 + 9 = 14, over 3
    deviation = math.sqrt(14 / 3) + 1e-4
    expected = [[-2 / deviation, -1 / deviation, 0.0, 3 / deviation], [0.0] * 4]
    torch.testing.assert_close(group_advantages(REWARDS, "group"), torch.tensor(expected, dtype=torch.float64))


def test_batch_scaling_divides_by_the_deviation_of_all_rewards():
    # mean of all eight: 12 / 8; squared differences 2.25 + .25 + .25 + 12.25 + 4 * .25 = 16, over 7
    deviation = math.sqrt(16 / 7) + 1e-4
    expected = [[-2 / deviation, -1 / deviation, 0.0, 3 / deviation], [0.0] * 4]
    torch.testing.assert_close(group_advantages(REWARDS, "batch"), torch.tensor(expected, dtype=torch.float64))


def test_without_scaling_only_the_mean_is_taken_off():
    assert group_advantages(REWARDS, "none").tolist() == [[-2.0, -1.0, 0.0, 3.0], [0.0] * 4]


def test_a_groups_advantages_do_not_depend_on_other_groups():
    alone = group_advantages(REWARDS[:1], "group")
    assert torch.equal(group_advantages(REWARDS, "group")[:1], alone)
    assert not torch.equal(group_advantages(REWARDS, "batch")[:1], group_advantages(REWARDS[:1], "batch"))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_group_with_an_unmarked_completion_has_no_advantages_and_changes_no_other(scale):
    whole = torch.tensor([[1.0, 2.0, 4.0], [0.0, 5.0, 1.0]])
    broken = torch.tensor([[1.0, float("nan"), 2.0]])
    mixed = group_advantages(torch.cat([whole[:1], broken, whole[1:]]), scale)
    assert mixed[1].tolist() == [0, 0, 0]
    assert torch.equal(mixed[[0, 2]], group_advantages(whole, scale))
