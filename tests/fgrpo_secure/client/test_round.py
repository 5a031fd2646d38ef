"""One client's round: weights survive the clip, the bound holds whatever the data, and no failure of data shows."""

import math
import tracemalloc
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from fgrpo_secure.client import round as client_round
from fgrpo_secure.client.owner import Trained, UnusableRound
from fgrpo_secure.config.files import parse
from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.gain import Baseline, Observation
from fgrpo_secure.learning.tasks import UnusableData
from fgrpo_secure.plan import round_settings
from fgrpo_secure.privacy import discrete_gaussian, encode
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import Lattice

DIMENSION = 400
CLIP = 0.5
VARIANCE = 50
PAST = Baseline(0.0, 1.0, 9)
STEP = CLIP / (5 * math.sqrt(DIMENSION))  # of the lattice, in units of the update


@dataclass
class Learner:
    """Stands for an owner after its training: an update, and how far its reward lies above a baseline of 0 +- 1."""

    update: np.ndarray
    reward: float = 0.0
    notes: list = field(default_factory=list)
    max_weight: float = 1.0

    def train(self, adapted, settings):
        if isinstance(self.update, UnusableRound):
            raise self.update
        return Trained(self.update, Observation(self.reward, 0.0))

    def note(self, settings, reason):
        self.notes.append(str(reason))


class Flat:
    """As much of a policy as a round without data needs."""

    def dimension(self, round_number):
        return DIMENSION


def settings(unit="none", **weighting):
    table = {"client": [{"name": "a", "task": "add"}], "privacy": {"unit": unit, "epsilon": 8.0, "clip_norm": CLIP}}
    config = parse(table | {"weighting": weighting}, "test")
    return round_settings.for_round(config, 4, VARIANCE if unit == "client" else 0)


def contribute(learner, chosen, seed=0, past=PAST):
    lattice = Lattice.build(DIMENSION, CLIP, 2)
    learned = client_round.learn(Flat(), learner, chosen)
    most = getattr(learner, "max_weight", 1.0)
    made = client_round.privatise(learned, chosen, lattice, past, most, SeededEntropy(bytes([seed])))
    decoded = encode.from_ring(made.vector.values, lattice, chosen.score_ranges, 1)
    return made, decoded


def direction(seed=1):
    vector = np.random.default_rng(seed).normal(size=DIMENSION)
    return vector / np.linalg.norm(vector)


# ------------------------------------------------------------------------------------------------------------- weights


def test_two_clients_beyond_the_clip_with_weights_of_one_to_two_contribute_one_to_two():
    """Were the weight applied before the clip, both would contribute C: the clip would have erased it.

    Along the update's direction a rounded vector has an error of deviation at most half a lattice step.
    """
    chosen, along = settings(rule="softmax", min_weight=0.5), direction()
    _, low = contribute(Learner(10 * CLIP * along, reward=-100.0), chosen)
    _, high = contribute(Learner(37 * CLIP * along, reward=100.0), chosen)
    short, long = (float(decoded.update_sum @ along) for decoded in (low, high))
    assert abs(short - 0.5 * CLIP) < 6 * STEP / 2
    assert abs(long - CLIP) < 6 * STEP / 2
    assert low.score_sums[0] == pytest.approx(0.5, abs=0.25 / 10)
    assert high.score_sums[0] == pytest.approx(1.0, abs=0.25 / 10)


def test_uniform_weights_give_the_plain_clipped_update_whatever_the_gain():
    for reward in (-100.0, 0.0, 100.0):
        _, decoded = contribute(Learner(0.3 * CLIP * direction(), reward), settings(rule="uniform"))
        assert np.abs(decoded.update_sum - 0.3 * CLIP * direction()).max() < STEP


@pytest.mark.parametrize("favour", ["leaders", "laggards"])
def test_the_gain_that_is_sent_is_the_one_that_weighs(favour):
    chosen = settings(rule="softmax", favour=favour)
    _, decoded = contribute(Learner(direction(), reward=1.3), chosen)
    weight, sent = decoded.score_sums
    assert sent == pytest.approx(1.3, abs=2 / 10)
    expected = math.exp(((1.3 if favour == "leaders" else -1.3) - 2.0) * math.log(2) / 4)
    assert weight == pytest.approx(expected, abs=0.25 / 10)


def test_the_baseline_learns_the_reward_and_the_past_one_is_left_alone():
    past = Baseline(0.0, 1.0, 9)
    made, _ = contribute(Learner(direction(), reward=2.0), settings(baseline_decay=0.75), past=past)
    assert made.baseline == past.updated(Observation(2.0, 0.0), 4, 0.75)
    assert (made.baseline.mean, made.baseline.variance, made.baseline.observations) == (0.5, 0.75 + 0.25 * 4.0, 10)
    assert past == Baseline(0.0, 1.0, 9)


# --------------------------------------------------------------------------------------------------- bound and noise


@pytest.mark.parametrize(
    "update",
    [
        np.full(DIMENSION, 1e300),
        np.full(DIMENSION, -1e-300),
        np.zeros(DIMENSION),
        1e9 * direction(),
        1e-9 * direction(),
    ],
    ids=["huge", "tiny", "zero", "long", "short"],
)
@pytest.mark.parametrize("reward", [-1e300, 0.0, 1e300])
def test_whatever_was_learned_the_integers_before_noise_keep_their_bound(update, reward):
    made, _ = contribute(Learner(update, reward), settings())
    bound = Lattice.build(DIMENSION, CLIP, 2).integer_bound
    assert sum(int(value) ** 2 for value in made.vector.values) <= bound**2
    assert made.vector.bound == bound


def test_with_privacy_every_coordinate_carries_a_share_of_the_noise_scores_included():
    """402 coordinates of variance 50 each: the mean square lies within 6 standard errors, 6 * 50 * sqrt(2 / 402)."""
    learner = Learner(np.zeros(DIMENSION), reward=0.0)
    plain, _ = contribute(learner, settings("none"), seed=3)
    noisy, _ = contribute(learner, settings("client"), seed=3)
    noise = noisy.vector.values - plain.vector.values
    assert abs(float(np.mean(noise**2)) - VARIANCE) < 6 * VARIANCE * math.sqrt(2 / noise.size)
    scores = np.array(
        [
            contribute(learner, settings("client"), seed=s)[0].vector.values[-2:]
            - contribute(learner, settings("none"), seed=s)[0].vector.values[-2:]
            for s in range(100)
        ]
    )
    assert (scores.std(axis=0) > 0.7 * math.sqrt(VARIANCE)).all()
    assert noisy.vector.share_variance == VARIANCE
    assert plain.vector.share_variance == 0


def test_two_rounds_never_share_rounding_or_noise():
    learner, chosen = Learner(0.3 * CLIP * direction()), settings("client")
    one, other = (contribute(learner, chosen, seed=seed)[0].vector.values for seed in (1, 2))
    assert (one != other).mean() > 0.8


# ----------------------------------------------------------------------------------------------- failures of data


def test_an_unusable_round_contributes_zero_and_the_full_noise_and_keeps_the_baseline():
    past = Baseline(0.4, 0.2, 5)
    learner = Learner(UnusableRound("no rows"))
    made, _ = contribute(learner, settings("none"), past=past)
    assert not made.vector.values.any(), "zero in every coordinate, the scores' too"
    assert made.baseline == past
    assert learner.notes == ["no rows"]
    noisy, _ = contribute(learner, settings("client"))
    assert abs(float(np.mean(noisy.vector.values**2)) - VARIANCE) < 6 * VARIANCE * math.sqrt(2 / (DIMENSION + 2))


@pytest.mark.parametrize("rule", ["history", "softmax", "linear", "uniform"])
def test_a_failed_client_is_zero_under_every_weight_rule(rule):
    made, _ = contribute(Learner(UnusableRound("no rows")), settings("none", rule=rule))
    assert not made.vector.values.any()


class Rewards:
    """Rewards that fail, each in its own way. None of what they raise or hold may show."""

    @staticmethod
    def not_a_number(completions, **_):
        return [math.nan] * len(completions)

    @staticmethod
    def infinite(completions, **_):
        return [math.inf] * len(completions)

    @staticmethod
    def too_few(completions, **_):
        return [0.0] * (len(completions) - 1)

    @staticmethod
    def nothing(completions, **_):
        return None

    @staticmethod
    def skipped(completions, **_):
        return [None] * len(completions)

    @staticmethod
    def text(completions, **_):
        return ["PLANTED"] * len(completions)

    @staticmethod
    def raising(prompts, completions, **_):
        raise RuntimeError(f"PLANTED {prompts[0]}")

    @staticmethod
    def an_unknown_column(completions, diagnosis, **_):
        return [float(diagnosis[0])] * len(completions)

    @staticmethod
    def overflowing(completions, **_):
        return [1.7e308 * (-1) ** place for place in range(len(completions))]

    @staticmethod
    def a_mean_that_overflows(completions, **_):
        return [4e307] * len(completions)

    @staticmethod
    def squares_that_overflow(completions, **_):
        return [1e200 * place for place in range(len(completions))]


FAILING = sorted(name for name in vars(Rewards) if not name.startswith("_"))


@dataclass
class Rows:
    """A source that gives what it is told to, or raises it."""

    rows: object

    def batch(self, round, step, count):
        if isinstance(self.rows, Exception):
            raise self.rows
        return [dict(self.rows) for _ in range(count)]


@pytest.fixture
def round_of(trial, capfd):
    """Conducts sessions in which client 2 is changed; gives them and what anybody but that client saw."""

    def conduct(*overrides, rounds=1, **changes):
        federation = trial.federation("privacy.unit=none", f"federation.rounds={rounds}", *overrides)
        participant = federation.engine.hosts[0]._participants[2]
        participant._owner = replace(participant._owner, **changes)
        sessions = [trial.conduct(federation, training_round) for training_round in range(rounds)]
        streams = capfd.readouterr()
        public = [path.read_bytes() for path in federation.directory.root.rglob("*") if path.is_file()]
        return sessions, participant._owner.log, b"\n".join([*public, streams.out.encode(), streams.err.encode()])

    return conduct


def assert_silent(sessions, log, shown, word="PLANTED"):
    """Client 2 took part like everybody, as zero; why, it alone knows."""
    for session in sessions:
        assert set(session.result.recovered.survivors) == set(range(8))
        assert session.refusals == {}
        assert not session.encoded[2].values.any()
        sizes = {step: {len(m) for (at, _), m in session.up.items() if at == step} for step in ("announce", "mask")}
        assert all(len(lengths) == 1 for lengths in sizes.values())
        assert sum(vector.values.any() for vector in session.encoded.values()) >= 4
    assert log.read_text().count("round ") == len(sessions)
    assert log.stat().st_mode & 0o077 == 0 or log.parent.stat().st_mode & 0o077 == 0
    assert word.encode() not in shown
    for said in (b"Warning", b"Error", b"round 0:"):
        assert said not in shown


@pytest.mark.parametrize("name", FAILING)
def test_a_reward_that_fails_shows_to_its_owner_alone(round_of, name):
    assert_silent(*round_of(rounds=1, reward_functions=(getattr(Rewards, name),)))


@pytest.mark.parametrize(
    "rows",
    [{"prompt": "1+" * 300}, {"prompt": "1+1=", "answer": None}, {"prompt": "1+1="}, UnusableData("PLANTED")],
    ids=["prompt too long", "no text for an answer", "no answer", "unreadable"],
)
def test_rows_that_cannot_be_used_show_to_their_owner_alone(round_of, rows):
    assert_silent(*round_of(source=Rows(rows)))


def test_rewards_that_keep_overflowing_never_break_the_clients_history(round_of):
    assert_silent(*round_of(rounds=4, reward_functions=(Rewards.a_mean_that_overflows,)))


def enormous(completions, **_):
    return [1e40 * place for place in range(len(completions))]


@pytest.mark.parametrize("steps", [1, 3])
def test_training_that_diverges_shows_to_its_owner_alone(round_of, steps):
    """Rewards beyond what a gradient can hold: after the first step the model's probabilities are no numbers."""
    overrides = ["grpo.scale_rewards=none", f"federation.local_steps={steps}"]
    assert_silent(*round_of(*overrides, reward_functions=(enormous,)))


def test_a_failed_round_is_told_in_the_owners_words_without_its_rows(round_of):
    _, log, _ = round_of(reward_functions=(Rewards.raising,))
    said = log.read_text()
    assert "round 0" in said
    assert "RuntimeError" in said
    assert "PLANTED" not in said


def test_a_client_whose_data_fails_still_counts_its_noise(trial):
    federation = trial.federation()
    participant = federation.engine.hosts[0]._participants[2]
    participant._owner = replace(participant._owner, reward_functions=(Rewards.not_a_number,))
    session = trial.conduct(federation)
    assert not session.encoded[2].values.any()
    noise, variance = session.noised[2].values, session.noised[2].share_variance
    assert variance == session.noised[0].share_variance > 0
    assert abs(float(np.mean(noise**2)) - variance) < 6 * variance * math.sqrt(2 / noise.size)
    np.testing.assert_array_equal(session.total, sum(vector.values for vector in session.noised.values()))


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("unit", ["none", "client"])
def test_a_round_with_a_big_adapter_takes_two_vectors_beside_the_update(unit):
    """The update is kept for a round that is repeated; beside it are never more than two vectors of its size."""
    length, chosen = 400_000, settings(unit)
    update = np.random.default_rng(3).normal(size=length)
    learned = client_round.Learned(Update(update), Observation(0.5, 0.0))
    lattice = Lattice.build(length, CLIP, 2)
    discrete_gaussian.table(VARIANCE)  # of the variance's size, not of the update's
    tracemalloc.start()
    try:
        client_round.privatise(learned, chosen, lattice, PAST, 0.5, SeededEntropy(bytes(1)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * update.nbytes
