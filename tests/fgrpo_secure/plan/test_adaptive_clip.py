"""A clip norm that follows a quantile: its bit is charged, what is published is checked, and it converges."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from fgrpo_secure.client import round as client_round
from fgrpo_secure.client.owner import Trained, UnusableRound
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError, parse
from fgrpo_secure.config.schema import AdaptiveClip
from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.gain import Baseline, Observation
from fgrpo_secure.ledger import clip_norm_history as clip_norms
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import adapter_shape, adaptive_clip, round_settings, run_plan
from fgrpo_secure.plan.cost import InfeasiblePlan
from fgrpo_secure.privacy import clip, encode
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import Lattice, Score
from fgrpo_secure.storage.signed_file import BadFile
from protocols.errors import Refused

DIMENSION, CLIP, VARIANCE = 4000, 0.5, 50
RULE = AdaptiveClip()
ON = "privacy.adaptive_clip={quantile = 0.5, learning_rate = 0.2}"


# ------------------------------------------------------------------------------------------------------------ the rule


def test_the_rule_is_that_of_its_paper_computed_by_hand():
    first = 2.0 * math.exp(-0.2 * (0.9 - 0.5))
    assert adaptive_clip.clip_norm(RULE, 2.0, [0.9]) == pytest.approx(first)
    assert adaptive_clip.clip_norm(RULE, 2.0, [0.9, 0.1]) == pytest.approx(2.0)
    assert adaptive_clip.clip_norm(RULE, 2.0, []) == 2.0


@pytest.mark.parametrize("start", [0.1, 0.9, 1.1, 5.0])
@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
def test_from_either_side_the_clip_norm_reaches_the_quantile_and_stays(start, quantile):
    """Counting the clients that were cut, under the same sign, would drive it to zero or without bound."""
    norms = np.exp(np.random.default_rng(5).normal(0.0, 0.5, 400))
    rule, shares = AdaptiveClip(quantile=quantile), []
    for _ in range(120):
        shares.append(float(np.mean(norms <= adaptive_clip.clip_norm(rule, start, shares))))
    assert adaptive_clip.clip_norm(rule, start, shares) == pytest.approx(np.quantile(norms, quantile), rel=0.05)


def test_no_history_brings_the_clip_norm_beyond_its_range():
    rule = AdaptiveClip(range=10.0)
    assert adaptive_clip.clip_norm(rule, 3.0, [0.0] * 500) == 30.0
    assert adaptive_clip.clip_norm(rule, 3.0, [1.0] * 500) == pytest.approx(0.3)


@pytest.mark.parametrize(("bits", "share"), [(-3.0, 0.0), (4.0, 0.5), (11.0, 1.0)])
def test_a_noised_share_is_cut_to_where_the_true_one_lies(bits, share):
    assert adaptive_clip.fraction_within(bits, 8) == share


@pytest.mark.parametrize(
    ("values", "said"),
    [([0.3, 0.4], 1.0), ([0.6, 0.8], 0.0), ([0.0, 0.0], 1.0), ([1e300, 1e300], 0.0), ([math.nan, 0.0], 0.5)],
)
def test_the_bit_says_whether_the_update_is_within_and_nothing_of_what_is_no_number(values, said):
    score = adaptive_clip.bit(Update(np.array(values)), 0.5)
    assert (score.value, score.low, score.high) == (said, 0.0, 1.0)
    assert "value" not in repr(score)


# ------------------------------------------------------------------------------------------------- what the bit costs


class Flat:
    def dimension(self, round_number):
        return DIMENSION


class Learner:
    max_weight = 1.0

    def __init__(self, update, reward=0.0):
        self.update, self.reward = update, reward

    def train(self, adapted, settings):
        if isinstance(self.update, UnusableRound):
            raise self.update
        return Trained(self.update, Observation(self.reward, 0.0))

    def note(self, settings, reason):
        pass


def settings(unit="client", shares=(0.5,) * 4):
    private = {"unit": unit, "epsilon": 8.0, "clip_norm": CLIP, "adaptive_clip": RULE.model_dump()}
    config = parse({"client": [{"name": "a", "task": "add"}], "privacy": private}, "test")
    return round_settings.for_round(config, 4, VARIANCE if unit == "client" else 0, shares)


def contribute(learner, chosen, seed=0):
    lattice = chosen.upload_lattice(DIMENSION)
    learned = client_round.learn(Flat(), learner, chosen)
    return client_round.privatise(learned, chosen, lattice, Baseline(0, 1, 9), 1.0, SeededEntropy(bytes([seed])))


def updates():
    direction = np.random.default_rng(1).normal(size=DIMENSION)
    direction /= np.linalg.norm(direction)
    return [CLIP * direction, 0.999 * CLIP * direction, 1e6 * direction, np.zeros(DIMENSION)]


def test_the_joint_bound_counts_the_bit_as_a_third_coordinate():
    """By hand: R = 5 sqrt(1.03 d), B = ceil(sqrt(R^2 + (d + 3) / 4 + R + sqrt(d + 3) / 2))."""
    radius = 5 * math.sqrt(1.03 * DIMENSION)
    bound = math.ceil(math.sqrt(radius**2 + (DIMENSION + 3) / 4 + radius + math.sqrt(DIMENSION + 3) / 2))
    assert settings().upload_lattice(DIMENSION).integer_bound == bound
    assert bound > Lattice.build(DIMENSION, CLIP, 2).integer_bound


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("reward", [-100.0, 100.0])
def test_taking_a_client_away_moves_the_whole_vector_bit_included_by_at_most_the_charged_bound(place, reward):
    vector = contribute(Learner(updates()[place], reward), settings("none")).vector.values
    bound = settings().upload_lattice(DIMENSION).integer_bound
    assert vector.size == DIMENSION + 3
    assert vector[-1] != 0
    assert sum(int(value) ** 2 for value in vector) <= bound**2


def test_a_bit_beside_the_bound_instead_of_inside_it_would_exceed_what_is_charged():
    """The positive control: the same vector, its bit left out of the joint bound, is longer than that bound."""
    lattice = Lattice.build(40_000, CLIP, 2)
    update = np.random.default_rng(1).normal(size=40_000)  # longer than the clip norm
    for seed in range(5):
        clipped, extremes = clip.to_norm(Update(update), CLIP), [Score(1.0, 0.5, 1.0), Score(2.0, -2.0, 2.0)]
        values = encode.to_ring(clipped, extremes, lattice, SeededEntropy(bytes([seed]))).values
        squares = sum(int(value) ** 2 for value in values)
        assert squares <= lattice.integer_bound**2
        assert squares + int(lattice.score_radius) ** 2 > lattice.integer_bound**2


def test_the_bit_carries_the_same_noise_as_every_other_coordinate():
    """100 draws of variance 50: a bit sent without noise would have none."""
    learner = Learner(updates()[1])
    noise = [
        contribute(learner, settings("client"), seed).vector.values[-1]
        - contribute(learner, settings("none"), seed).vector.values[-1]
        for seed in range(100)
    ]
    assert abs(np.var(noise) - VARIANCE) < 6 * VARIANCE * math.sqrt(2 / 100)


def test_an_unusable_round_says_nothing_about_norms():
    assert not contribute(Learner(UnusableRound("no rows")), settings("none")).vector.values.any()


def test_the_noise_does_not_depend_on_where_the_clip_norm_has_gone():
    low, high = settings(shares=(1.0,) * 4), settings(shares=(0.0,) * 4)
    assert low.clip_norm < CLIP < high.clip_norm
    bounds = {chosen.upload_lattice(DIMENSION).integer_bound for chosen in (low, high)}
    assert len(bounds) == 1
    scale = [chosen.upload_lattice(DIMENSION).scale * chosen.clip_norm for chosen in (low, high)]
    assert scale[0] == pytest.approx(scale[1])


def test_the_server_reads_the_share_of_clients_within_from_the_sum():
    chosen = settings("none")
    lattice = chosen.upload_lattice(DIMENSION)
    learners = [Learner(update) for update in (*updates(), UnusableRound("no rows"))]
    total = sum(contribute(each, chosen, seed).vector.values for seed, each in enumerate(learners))
    decoded = encode.from_ring(total, lattice, chosen.score_ranges, len(learners))
    share = adaptive_clip.fraction_within(decoded.score_sums[2], len(learners))
    inside = sum(float(np.linalg.norm(update)) <= chosen.clip_norm for update in updates())
    assert share == pytest.approx((inside + 0.5) / 5, abs=0.5 / lattice.score_radius)


# ------------------------------------------------------------------------------------------------------------ the plan


@pytest.fixture(scope="module")
def planned(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "small.toml"
    path.write_text(small[0])

    def make(*overrides):
        config = config_file.load(str(path), overrides)
        return config, adapter_shape.read(config.model.path, config.adapter)

    return make


def test_the_plan_says_what_the_bit_costs_and_how_noisy_its_share_is(planned):
    config, adapted = planned(ON, "client.add.count=100")
    found, without = run_plan.plan(config, adapted), run_plan.plan(*planned("client.add.count=100"))
    assert found.claim.epsilon <= 60
    cost = found.lattice.integer_bound / without.lattice.integer_bound - 1
    assert found.facts()["privacy.adaptive_clip_cost"] == pytest.approx(cost)
    assert 0.003 < cost < 0.02
    assert without.facts()["privacy.adaptive_clip_cost"] is None
    deviation = math.sqrt(107 * found.share_variance) / (2 * 5 * math.sqrt(found.lattice.dimension) * 0.1 * 107)
    assert found.facts()["privacy.adaptive_clip_deviation"] == pytest.approx(deviation)
    honest = (found.noise.floor - found.noise.colluders) * found.share_variance - 4
    assert found.noise.charge == Fraction(found.lattice.integer_bound**2, honest)
    assert found.claim.noise_multiplier == pytest.approx(without.claim.noise_multiplier, rel=0.03)  # integers


def test_noise_that_would_toss_the_clip_norm_about_is_refused_with_a_rate_that_is_not(planned):
    config, adapted = planned(ON, "privacy.epsilon=1")
    with pytest.raises(InfeasiblePlan, match="would move it by") as problem:
        run_plan.plan(config, adapted)
    rate = problem.value.nearest.split(" = ")[1].split(",")[0]
    config, adapted = planned(f"privacy.adaptive_clip={{learning_rate = {rate}}}", "privacy.epsilon=1")
    assert run_plan.plan(config, adapted).claim.epsilon <= 1


def test_units_inside_clients_cannot_have_it_and_are_told_why(tmp_path):
    text = '[privacy]\nunit = "prompt_group"\nepsilon = 8.0\n[[client]]\nname = "a"\ntask = "add"\nrows = 8\n'
    (tmp_path / "units.toml").write_text(text)
    with pytest.raises(ConfigError, match="every unit, at every step, would have to say a bit of its own"):
        config_file.load(str(tmp_path / "units.toml"), [ON])


def test_the_section_is_written_and_read_back_and_its_errors_name_its_keys(planned, tmp_path):
    config, _ = planned(ON)
    (tmp_path / "again.toml").write_text(config_file.dump(config))
    assert config_file.load(str(tmp_path / "again.toml")) == config
    with pytest.raises(ConfigError, match="did you mean 'quantile'"):
        planned("privacy.adaptive_clip.quantle=0.4")
    with pytest.raises(ConfigError, match=r"quantile.*below 1"):
        planned("privacy.adaptive_clip.quantile=1")


# -------------------------------------------------------------------------------------------------- what clients check


def offer(federation, **changes):
    plan = federation.open_round(2).sessions[0].plan
    chosen = {**json.loads(plan.settings), **changes}
    return msgspec.structs.replace(plan, settings=json.dumps(chosen, sort_keys=True, separators=(",", ":")).encode())


def test_a_client_computes_the_announced_clip_norm_again_and_refuses_any_other(trial):
    federation = trial.federation(ON, "privacy.unit=none")
    federation.shares = (0.25, 0.75)
    dimension = federation.adapted.dimension(2)
    good = federation.demands.admit(offer(federation), dimension)
    assert good.settings.clip_norm == pytest.approx(federation.config.privacy.clip_norm)
    for changes, reason in (
        ({"clip_norm": 1.01}, "does not follow"),
        ({"shares": [0.25, 0.7]}, "does not follow"),
        ({"shares": [0.25]}, "one share for each round before"),
        ({"first_clip_norm": 2.0}, "another rule"),
        ({"adaptive_clip": None}, "another rule"),
        ({"adaptive_clip": {"quantile": 0.5, "learning_rate": 0.2, "range": 1e6}}, "another rule"),
        ({"shares": [0.25, 1.5]}, "not usable"),
    ):
        with pytest.raises(Refused, match=reason):
            federation.demands.admit(offer(federation, **changes), dimension)
    fixed = replace(federation.demands, adaptive_clip=None, first_clip_norm=None)
    with pytest.raises(Refused, match="another rule"):
        fixed.admit(offer(federation), dimension)
    with pytest.raises(Refused, match="no rule adapts"):
        fixed.admit(offer(federation, adaptive_clip=None, first_clip_norm=None), dimension)


# ----------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.slow
def test_over_a_run_the_clip_norm_comes_to_the_middle_of_the_clients_norms_and_can_be_audited(trial):
    """Noise of epsilon 100 over ten rounds; from far too wide. Every figure follows from the ledger's shares."""
    overrides = ("federation.rounds=10", "privacy.epsilon=100", "privacy.delta=1e-3", "privacy.clip_norm=0.3")
    rule = "privacy.adaptive_clip={quantile = 0.5, learning_rate = 0.4, range = 1000.0}"
    directory = trial.run(*overrides, rule)
    lines = directory.read_metrics()
    config = config_file.load(str(directory.config))
    norms = [
        [float(np.linalg.norm(learned.update.values)) for learned in session.learned.values()]
        for session in trial.sessions
    ]
    distance = [abs(math.log(line["clip_norm"] / np.median(each))) for line, each in zip(lines, norms, strict=True)]
    assert distance[0] > 1.0
    assert min(distance[-3:]) < 0.6
    ledger = Ledgers.read(directory.ledger).existing("server")
    clip_norms.check(lines, config.privacy, ledger)
    for change in ({"clip_norm": 0.9}, {"fraction_within": 0.123}, {"fraction_within": None}):
        forged = [*lines[:4], {**lines[4], **change}, *lines[5:]]
        with pytest.raises(BadFile, match="round 5"):
            clip_norms.check(forged, config.privacy, ledger)
