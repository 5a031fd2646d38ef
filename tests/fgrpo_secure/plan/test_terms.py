"""What a client refuses, and says so: plans with less protection than it wants, other vectors, a spent budget."""

import json
import math
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import run_plan
from fgrpo_secure.plan import terms as client_policy
from fgrpo_secure.server.stages import SessionFailed
from protocols.errors import Refused
from protocols.params import Adversary
from protocols.wire import RoundPlan

DIMENSION = 256


@pytest.fixture
def federation(trial):
    return trial.federation("federation.rounds=3")


@pytest.fixture
def offer(federation):
    """The plan that an honest server would open a round with, changed in some fields or settings."""
    honest = federation.open_round(0).sessions[0].plan

    def make(settings=None, **fields):
        plan = msgspec.structs.replace(honest, **fields)
        changed = json.loads(plan.settings) | (settings or {})
        text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
        return msgspec.structs.replace(plan, settings=text.encode())

    return make


def variance_of(plan):
    return json.loads(plan.settings)["share_variance"]


def test_an_honest_plan_is_admitted_at_the_charge_of_its_fewest_survivors(federation, offer):
    plan = offer()
    admitted = federation.demands.admit(plan, DIMENSION)
    bound, honest = admitted.lattice.integer_bound, (plan.floor - plan.colluders) * variance_of(plan)
    assert admitted.charge == Fraction(bound**2, honest - 4)
    assert admitted.settled(8) == Fraction(bound**2, (8 - plan.colluders) * variance_of(plan) - 4)
    assert 0 < admitted.settled(8) < admitted.charge
    assert admitted.charge <= federation.demands.max_charge


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("share_variance", lambda settings: 2 * settings["share_variance"]),
        ("local_steps", lambda settings: 10**12),
        ("clip_norm", lambda settings: 1e6),
        ("seed", lambda settings: 7),
        ("grpo", lambda settings: settings["grpo"] | {"num_generations": 10**9}),
        ("grpo", lambda settings: settings["grpo"] | {"learning_rate": 1e30}),
        ("weighting", lambda settings: settings["weighting"] | {"gain_clip": 9.0}),
    ],
)
def test_every_figure_of_a_plan_counts_for_itself(federation, offer, key, change):
    """More noise, too: a charge is a product, and a client that looks at products can be offered other factors."""
    plan = offer()
    settings = json.loads(plan.settings)
    with pytest.raises(Refused, match=f"not those of the run that this client joined: {key}$"):
        federation.demands.admit(offer({key: change(settings)}, ring_bits=plan.ring_bits + 10), DIMENSION)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unit": "none"}, "protects unit 'none', this client wants 'client'"),
        ({"unit": "none", "share_variance": 0}, "protects unit 'none', this client wants 'client'"),
        ({"share_variance": 0}, "variance of 0 does not fit the privacy unit 'client'"),
        ({"share_variance": 15}, "variance of 15 is outside"),
        ({"share_variance": 2**60}, f"variance of {2**60} is outside"),
        ({"share_variance": -1}, "settings are not usable"),
        ({"surprise": 1}, "settings are not usable"),
        ({"clip_norm": "wide"}, "settings are not usable"),
        ({"clip_norm": 1e300}, "settings are not usable"),
        ({"clip_norm": 0.0}, "settings are not usable"),
    ],
)
def test_settings_that_protect_less_or_mean_nothing_are_refused(federation, offer, change, reason):
    with pytest.raises(Refused, match=reason):
        federation.demands.admit(offer(change), DIMENSION)


def test_noise_a_little_weaker_than_demanded_is_refused_even_if_the_budget_would_cover_it(federation, offer):
    plan = offer()
    weaker = offer({"share_variance": variance_of(plan) - 1})
    assert federation.ledger.budget() > 2 * federation.demands.max_charge
    with pytest.raises(Refused, match="noise is too weak"):
        federation.demands.admit(weaker, DIMENSION)


def test_more_colluders_than_demanded_make_the_same_noise_too_weak(federation, offer):
    with pytest.raises(Refused, match="noise is too weak"):
        federation.demands.admit(offer(colluders=2), DIMENSION)


@pytest.mark.parametrize(
    "vectors",
    [
        (("update", DIMENSION),),
        (("update", DIMENSION), ("scores", 3)),
        (("update", DIMENSION - 1), ("scores", 2)),
        (("update", DIMENSION), ("scores", 2), ("prompts", 9)),
        (("updates", DIMENSION), ("scores", 2)),
    ],
)
def test_a_plan_for_other_vectors_is_refused(federation, offer, vectors):
    with pytest.raises(Refused, match="not this client's update and scores"):
        federation.demands.admit(offer(vectors=vectors), DIMENSION)


def test_a_plan_for_another_dimension_than_the_client_trains_is_refused(federation, offer):
    with pytest.raises(Refused, match="not this client's update and scores"):
        federation.demands.admit(offer(), DIMENSION + 1)


def test_a_ring_in_which_the_sum_could_wrap_around_is_refused(federation, offer):
    plan = offer()
    with pytest.raises(Refused, match=f"{plan.ring_bits - 1} ring bits could overflow; {plan.ring_bits} cannot"):
        federation.demands.admit(offer(ring_bits=plan.ring_bits - 1), DIMENSION)


def test_a_client_without_privacy_refuses_noise_it_did_not_ask_for(trial):
    federation = trial.federation("privacy.unit=none")
    session = federation.open_round(0).sessions[0]
    plan, admitted = session.plan, session.admitted
    assert admitted.charge == 0
    assert admitted.settled(8) == 0
    settings = json.loads(plan.settings) | {"share_variance": 100}
    with pytest.raises(Refused, match="does not fit the privacy unit 'none'"):
        federation.demands.admit(
            msgspec.structs.replace(
                plan, settings=json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
            ),
            DIMENSION,
        )


def test_a_client_without_privacy_refuses_a_plan_that_says_it_has_some(trial):
    federation = trial.federation("privacy.unit=none")
    plan = federation.open_round(0).sessions[0].plan
    settings = json.loads(plan.settings) | {"share_variance": 100, "unit": "client"}
    with pytest.raises(Refused, match="this client wants 'none'"):
        federation.demands.admit(
            msgspec.structs.replace(
                plan, settings=json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
            ),
            DIMENSION,
        )


def test_the_demands_are_the_plan_that_a_client_computes_for_itself(federation):
    demands = federation.demands
    limits = demands.limits(b"r" * 16, 20_000)
    assert (demands.unit, demands.adversary) == ("client", Adversary.LYING_SERVER)
    assert (limits.min_cohort, limits.min_survivors, limits.run, limits.today) == (8, 6, b"r" * 16, 20_000)
    assert (limits.max_corrupt, limits.max_dropout) == (0.05, 0.25)


@pytest.mark.parametrize("factors", ["ffa", "alternate", "full"])
def test_every_round_of_an_honest_run_keeps_within_the_demands(trial, factors):
    federation = trial.federation(f"adapter.factors={factors}", "federation.rounds=6", "privacy.epsilon=30.0")
    for training_round in range(4):
        session = federation.open_round(training_round).sessions[0]
        plan, admitted = session.plan, session.admitted
        assert admitted.charge <= federation.demands.max_charge < admitted.charge * (1 + Fraction(1, 10))
        assert dict(plan.vectors)["update"] == federation.adapted.dimension(training_round)


# ------------------------------------------------------------------------------------------- refusals in a session


def test_a_plan_that_is_weaker_than_all_demands_is_refused_by_all_with_the_public_reason(
    trial, federation, monkeypatch
):
    original = run_plan.open_round

    def weaker(*arguments):
        plan: RoundPlan = original(*arguments)
        settings = json.loads(plan.settings)
        settings["share_variance"] -= 1
        return msgspec.structs.replace(
            plan, settings=json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
        )

    monkeypatch.setattr(run_plan, "open_round", weaker)
    monkeypatch.setattr(federation, "demands", _Credulous(federation.demands))
    with pytest.raises(SessionFailed, match=r"8 clients refused$"):
        trial.conduct(federation)
    assert set(trial.sessions[-1].refusals) == set(range(8))
    assert all("the plan's noise is too weak" in each for each in trial.sessions[-1].refusals.values())
    assert trial.sessions[-1].noised == {}, "nobody trained"
    assert federation.ledger.spent() == 0


class _Credulous:
    """A server that admits its own plan unread."""

    def __init__(self, demands):
        self._demands = demands

    def admit(self, plan, dimension):
        settings = client_policy.settings_of(plan)
        lattice = client_policy.Lattice.build(dimension, settings.clip_norm, 2)
        return client_policy.Admitted(settings, lattice, plan.colluders, self._demands.max_charge)


def test_a_client_whose_own_budget_is_spent_refuses_and_the_others_go_on(trial, federation):
    """Spent elsewhere: in another run, at another server. Its ledger is its own."""
    ledgers = Ledgers(federation.directory.owners / "host-0" / "ledgers.sqlite")
    own = ledgers.open("5", federation.ledger.budget())
    own.intent(bytes(32), 99, own.budget())
    own.settle(bytes(32), 8, own.budget())
    ledgers.close()
    session = trial.conduct(federation)
    assert session.refusals == {5: "privacy.epsilon: the privacy budget does not cover this round"}
    assert set(session.result.recovered.survivors) == set(range(8)) - {5}
    assert 5 not in session.noised
    np.testing.assert_array_equal(session.total, sum(vector.values for vector in session.noised.values()))


def test_clients_that_were_given_another_adapter_than_the_plan_names_refuse(trial, federation, monkeypatch):
    engine = federation.engine
    before = engine.invite

    def another(number, adapter, roster):
        before(number, adapter[:-4] + np.float32(0.125).tobytes(), roster)

    monkeypatch.setattr(engine, "invite", another)
    with pytest.raises(SessionFailed, match=r"8 clients refused$"):
        trial.conduct(federation)
    assert all("what this client loaded: adapter" in each for each in trial.sessions[-1].refusals.values())
    assert trial.sessions[-1].noised == {}


@pytest.mark.parametrize("name", ["model", "tokenizer", "frozen"])
def test_clients_refuse_a_plan_that_names_another_model_tokenizer_or_frozen_factors(
    trial, federation, monkeypatch, name
):
    original = run_plan.open_round

    def other(*arguments):
        plan: RoundPlan = original(*arguments)
        context = dict(plan.context) | {name: bytes(32)}
        return msgspec.structs.replace(plan, context=tuple(sorted(context.items())))

    monkeypatch.setattr(run_plan, "open_round", other)
    with pytest.raises(SessionFailed, match=r"8 clients refused$"):
        trial.conduct(federation)
    assert all(f"what this client loaded: {name}" in each for each in trial.sessions[-1].refusals.values())


def test_a_refused_client_gives_nothing_in_the_later_steps_either(trial, federation):
    """It announced keys before its budget said no; a server that asks on gets a refusal, not a vector."""
    participant = federation.engine.hosts[0]._participants[5]
    participant.ledgers[0].intent(bytes(32), 99, participant.ledgers[0].budget())
    participant.ledgers[0].settle(bytes(32), 8, participant.ledgers[0].budget())
    session = trial.conduct(federation)
    with pytest.raises(Refused, match="no plan was accepted"):
        participant._vectors(federation.open_round(0).sessions[0].plan)
    assert ("mask", 5) not in session.up


def test_the_budget_that_the_server_sees_binds_every_client_but_for_the_parts_of_delta_that_a_run_sets_aside(
    federation,
):
    """An owner's file gives its whole delta to what is charged; a run keeps parts of it for what else may fail."""
    (own,) = {participant.ledgers[0].budget() for participant in federation.engine.hosts[0]._participants.values()}
    assert federation.ledger.budget() <= own < federation.ledger.budget() * Fraction(101, 100)
    mu = math.sqrt(federation.ledger.budget())
    assert mu == pytest.approx(federation.privacy.claim.mu, rel=0.1)
