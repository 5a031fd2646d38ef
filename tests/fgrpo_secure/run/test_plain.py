"""The baseline without secure aggregation: it says what it is, adds the noise it claims, and no message turns it on."""

import json
from dataclasses import replace
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from fgrpo_secure.client import plain as client_plain
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.plan import adapter_shape, run_plan
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.privacy import noise
from fgrpo_secure.privacy.accounting import round_mu_squared
from fgrpo_secure.privacy.encode import EncodedVector
from fgrpo_secure.server import plain
from protocols import labels, wire
from protocols.errors import FaultyServer, Refused, TooFewClients
from protocols.identity import Identity, verify_signature
from protocols.wire import SignedPlan

PLAIN = ("aggregation.mode=plain", "aggregation.adversary=none", "aggregation.max_corrupt=0")


def test_the_sum_is_that_of_the_clients_vectors_and_one_draw_of_central_noise(trial):
    federation = trial.federation(*PLAIN)
    session = trial.conduct(federation)
    encoded = np.sum([vector.values for vector in session.encoded.values()], axis=0)
    variance = federation.privacy.share_variance
    bare = EncodedVector(np.zeros_like(encoded), federation.privacy.lattice.integer_bound)
    drawn = noise.add_share(bare, variance, SeededEntropy(b"0").child("server").child("central", 0)).values
    assert session.result.recovered.survivors == tuple(range(8))
    np.testing.assert_array_equal(session.total, encoded + drawn)
    assert np.count_nonzero(drawn) > drawn.size / 2
    for client, noised in session.noised.items():
        np.testing.assert_array_equal(noised.values, session.encoded[client].values)  # in the clear, as it says


def test_without_privacy_the_baseline_and_the_protocol_give_the_same_integers_and_model(trial):
    totals, models = [], []
    for index, settings in enumerate(((), PLAIN)):
        federation = trial.federation("privacy.unit=none", *settings, name=f"run{index}")
        totals.append(trial.conduct(federation).total)
        models.append(federation.adapted.get_vector(0))
    np.testing.assert_array_equal(*totals)
    np.testing.assert_array_equal(*models)


def test_the_baseline_has_the_noise_multiplier_and_the_charge_of_the_protocols_plan(trial):
    secure = trial.federation(name="secure").privacy
    trusted = trial.federation(*PLAIN, name="plain").privacy
    assert trusted.claim.noise_multiplier == pytest.approx(secure.claim.noise_multiplier, rel=1e-3)
    bound = trusted.lattice.integer_bound
    assert trusted.noise.charge == round_mu_squared(bound, trusted.share_variance)
    assert trusted.claim.epsilon <= 60
    # the same multiplier: headroom for dropouts and colluders is what clients add beyond it
    assert 8 * secure.share_variance > trusted.share_variance


def test_the_charge_of_a_baseline_does_not_depend_on_who_survives(trial):
    federation = trial.federation(*PLAIN)
    session = federation.open_round(0).sessions[0]
    plan, admitted = session.plan, session.admitted
    assert admitted.settled(8) == admitted.settled(6) == admitted.charge > 0
    assert plan.floor == 6


def test_a_baseline_says_so_in_plan_summary_and_on_the_terminal(trial):
    directory = trial.run(*PLAIN, "federation.rounds=1")
    summary = json.loads(directory.summary.read_text())
    assert summary["secure_aggregation"] == "no secure aggregation"
    assert summary["aggregation.mode"] == "plain"
    assert summary["aggregation.adversary"] == "none"
    assert summary["aggregation.threshold"] is None
    assert summary["privacy.epsilon_server"] is None  # the server knows everybody's part
    assert summary["privacy.epsilon_release"] <= 60
    assert any("no secure aggregation" in line for line in summary["warnings"])
    assert any("no secure aggregation" in line for line in trial.lines)
    assert summary["bytes.up_per_client_per_round"] > 0
    assert not directory.statement.exists()  # nobody signs for what nobody protects
    assert not directory.registry.exists()


def test_a_run_with_the_protocol_does_not_carry_that_warning(trial):
    federation = trial.federation()
    facts = federation.privacy.facts()
    assert facts["aggregation.mode"] == "secure"
    assert not any("no secure aggregation" in line for line in facts["warnings"])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("aggregation.mode=plain",), "adversary = 'none' and max_corrupt = 0"),
        (("aggregation.mode=plain", "aggregation.adversary=lying_server"), "withstands no adversary"),
        (("aggregation.mode=plain", "aggregation.adversary=none", "aggregation.max_corrupt=0.1"), "max_corrupt = 0"),
        (("aggregation.adversary=none",), "goes with mode 'plain'"),
        ((*PLAIN, "engine.faults={mask=0.1}"), "engine.faults"),
    ],
)
def test_settings_that_would_be_a_lie_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        config_file.load("quickstart", list(settings))


def test_no_plan_turns_off_the_noise_of_a_client_that_insists_on_secure_aggregation(trial):
    federation = trial.federation()
    plan = federation.open_round(0).sessions[0].plan
    settings = RoundSettings.decode(plan.settings)
    tempting = settings.model_copy(update={"aggregation": "plain", "share_variance": 10**9})
    weaker = wire.RoundPlan(**{**{f: getattr(plan, f) for f in plan.__struct_fields__}, "settings": tempting.encode()})
    with pytest.raises(Refused, match="aggregation is 'plain'"):
        federation.demands.admit(weaker, federation.adapted.dimension(0))
    with pytest.raises(Refused, match="aggregation is 'secure'"):
        replace(federation.demands, aggregation="plain").admit(plan, federation.adapted.dimension(0))


class Uploads:
    """A link whose clients answer with what they are given."""

    def __init__(self, answers):
        self.answers = answers

    def exchange(self, step, outgoing):
        yield from self.answers.items()


@pytest.fixture
def opened(trial):
    federation = trial.federation(*PLAIN)
    session = federation.open_round(0).sessions[0]
    plan, admitted = session.plan, session.admitted
    short = np.zeros(admitted.lattice.length, np.int64)
    return federation, plan, admitted, client_plain.upload(short, plan)


def test_a_vector_beyond_its_bound_or_of_another_length_is_left_out_and_blamed(opened):
    federation, plan, admitted, good = opened
    long = np.zeros(admitted.lattice.length, np.int64)
    long[0] = admitted.lattice.integer_bound + 1
    answers = dict.fromkeys(range(8), good) | {2: client_plain.upload(long, plan), 5: good[:-1]}
    recovered, traffic = plain.collect(federation.identity, plan, admitted, Uploads(answers), SeededEntropy(b"x"))
    assert recovered.survivors == (0, 1, 3, 4, 6, 7)
    assert recovered.dropped == (2, 5)
    assert set(recovered.blamed) == {2, 5}
    assert sum(traffic.up.values()) == 8 * len(good) - 1


def test_fewer_clients_than_the_floor_give_nothing(opened):
    federation, plan, admitted, good = opened
    with pytest.raises(TooFewClients):
        plain.collect(federation.identity, plan, admitted, Uploads(dict.fromkeys(range(5), good)), SeededEntropy(b"x"))


def test_a_client_trains_on_the_plan_of_its_own_server_alone(opened):
    federation, plan, _, _ = opened
    stranger = Identity.from_seed(b"s" * 32)
    forged = wire.encode(SignedPlan(plan, stranger.sign(labels.SIGN_PLAN, wire.encode(plan))))
    with pytest.raises(FaultyServer, match="did not sign"):
        client_plain.open_request(forged, federation.identity.public, verify_signature)
    with pytest.raises(FaultyServer, match="malformed"):
        client_plain.open_request(b"nothing", federation.identity.public, verify_signature)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"session_number": 0}, "does not come after"),
        ({"session_number": 2**48}, "is more than"),
        ({"run": bytes(16)}, "has not joined"),
    ],
    ids=["replayed", "a huge number", "another run"],
)
def test_plans_that_replay_skip_or_name_another_run_are_refused_and_end_no_host(trial, change, reason):
    federation = trial.federation(*PLAIN)
    trial.conduct(federation)
    plan = msgspec.structs.replace(federation.open_round(1).sessions[0].plan, **change)
    signed = wire.encode(wire.SignedPlan(plan, federation.identity.sign(labels.SIGN_PLAN, wire.encode(plan))))
    answers = dict(federation.engine.exchange("mask", dict.fromkeys(range(8), signed), 1.0))
    assert answers == {}
    assert all(reason in said for said in federation.engine.refusals.values())


def test_a_baselines_budget_is_spent_at_the_servers_ledger_alone(trial):
    federation = trial.federation(*PLAIN)
    trial.conduct(federation)
    assert federation.ledger.spent() == federation.privacy.noise.charge
    participants = federation.engine.hosts[0]._participants.values()
    assert all(participant.ledgers == () for participant in participants)
    assert run_plan.plan(federation.config, adapter_shape.of(federation.adapted)).claim.budget >= Fraction(
        federation.ledger.spent()
    )
