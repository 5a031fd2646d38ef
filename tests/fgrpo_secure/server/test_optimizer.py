"""The weighted mean and the server's optimiser."""

import numpy as np
import pytest
import torch

from fgrpo_secure.config.schema import Server, Weighting
from fgrpo_secure.server.optimizer import ServerOptimizer, denominator_kind, weighted_mean


def test_uniform_weights_give_the_plain_mean():
    updates = np.random.default_rng(0).normal(size=(7, 5))
    for kind in ("exact_ratio", "public", "noisy_ratio"):
        mean = weighted_mean(updates.sum(axis=0), 7.0, 0.0, 7, kind, Weighting(rule="uniform"))
        np.testing.assert_allclose(mean.update, updates.mean(axis=0), rtol=1e-12)


def test_exact_ratio_is_the_weighted_mean():
    updates, weights = np.array([[2.0, 0.0], [0.0, 4.0]]), np.array([0.5, 1.0])
    total = (weights[:, None] * updates).sum(axis=0)
    mean = weighted_mean(total, float(weights.sum()), 1.0, 2, "exact_ratio", Weighting())
    np.testing.assert_allclose(mean.update, np.average(updates, axis=0, weights=weights))
    assert (mean.mean_weight, mean.mean_gain) == (0.75, 0.5)


def test_noise_cannot_make_the_denominator_vanish_or_change_sign():
    ones = np.ones(3)
    for noisy_sum in (-5.0, 0.0, 1e-9):
        mean = weighted_mean(ones, noisy_sum, 0.0, 10, "noisy_ratio", Weighting(min_weight=0.5))
        np.testing.assert_allclose(mean.update, ones / 5)
    mean = weighted_mean(ones, 1e9, 0.0, 10, "noisy_ratio", Weighting(min_weight=0.5))
    np.testing.assert_allclose(mean.update, ones / 10)


def test_the_public_denominator_does_not_look_at_the_weights():
    kinds = [weighted_mean(np.ones(2), weight_sum, 0.0, 8, "public", Weighting()) for weight_sum in (1.0, 7.0)]
    np.testing.assert_array_equal(kinds[0].update, kinds[1].update)


@pytest.mark.parametrize(
    ("private", "cohort", "expected"),
    [(False, 8, "exact_ratio"), (True, 99, "public"), (True, 100, "noisy_ratio")],
)
def test_denominator_follows_privacy_and_cohort(private, cohort, expected):
    assert denominator_kind(Weighting(), private, cohort) == expected


@pytest.mark.parametrize("settings", [Server(momentum=0.9), Server(optimizer="adam", learning_rate=0.1)])
def test_an_optimiser_continues_from_its_state_as_if_never_stopped(settings):
    means = np.random.default_rng(1).normal(size=(6, 4))
    straight, resumed = ServerOptimizer(settings), ServerOptimizer(settings)
    one = other = np.zeros(4)
    for index, mean in enumerate(means):
        one = straight.step(one, mean, "B")
        if index == 3:
            state = resumed.state()
            resumed = ServerOptimizer(settings)
            resumed.load(state)
        other = resumed.step(other, mean, "B")
    np.testing.assert_array_equal(one, other)


def test_sgd_moves_along_the_mean_update_and_factor_sets_keep_their_own_momentum():
    optimizer = ServerOptimizer(Server(learning_rate=2.0, momentum=0.5))
    zero, one = np.zeros(2), np.ones(2)
    np.testing.assert_allclose(optimizer.step(zero, one, "B"), 2.0)
    np.testing.assert_allclose(optimizer.step(zero, one, "A"), 2.0)
    np.testing.assert_allclose(optimizer.step(zero, one, "B"), 3.0)
    assert all(isinstance(value, torch.Tensor) for value in optimizer.state().values())
