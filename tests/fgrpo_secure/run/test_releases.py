"""Every release is in the ledger: all that a server can see in a run, field by field, with its charge or its reason.

The tables below must name every field that exists, and none that does not: a new field fails here until somebody
says why it may be seen. CHARGED values are functions of the round's noisy sum, which the round's charge pays for.
PUBLIC ones are fixed before anybody's data is touched, or come from the public evaluation set. RANDOM ones are keys,
ciphertexts, signatures and masked numbers: their distribution does not depend on data. PRESENCE is who answered:
public under zero-out adjacency, and a client answers whatever its data is. ONE_MACHINE exists because a trial runs
everybody on one machine; it stands outside every claim, and outside the run directory (simulation.json beside it).
"""

import dataclasses
import json
from fractions import Fraction

import msgspec
import pytest

from fgrpo_secure.engines import messages as frames
from fgrpo_secure.privacy.accounting import round_mu_squared
from fgrpo_secure.storage.run_directory import RoundMetrics
from protocols import wire
from protocols.server import Recovered

CHARGED, PUBLIC, RANDOM, PRESENCE, ONE_MACHINE = "charged", "public", "random", "presence", "one machine"
OWN = "asserted by the operator about itself"

WIRE = {  # what clients send; what the server sends it made from these and from the plan
    "Signed": {"body": "one of the others", "signature": RANDOM},
    "Complaint": {"client": PRESENCE, "dealer": PRESENCE, "s2": RANDOM},  # about another's keys, never about data
    "Announcement": {"client": PRESENCE, "mask_key": RANDOM, "seal_key": RANDOM, "signature": RANDOM},
    "Deal": {"dealer": PRESENCE, "seed_commitment": RANDOM, "leaves": RANDOM, "signature": RANDOM},
    "Leaf": {
        "holder": PUBLIC,
        "seed_commitment": RANDOM,
        "seed_box": RANDOM,
        "key_commitment": RANDOM,
        "key_box": RANDOM,
    },
    "HybridLeaf": {  # with post-quantum keys: ciphertexts of fresh randomness
        "holder": PUBLIC,
        **dict.fromkeys(("seed_commitment", "seed_box", "key_commitment", "key_box"), RANDOM),
        **dict.fromkeys(("seal_ciphertext", "pad_commitment", "pad_ciphertext", "pad_box"), RANDOM),
    },
    "Upload": {"client": PRESENCE, "vectors": RANDOM, "signature": RANDOM},  # masked: uniform, but for the sum
    "Agreement": {"signer": PRESENCE, "signature": RANDOM},
    "OpenedShare": {"dealer": PRESENCE, "share": RANDOM},  # opens masks: what they leave is the sum, see Recovered
    "Opening": {"holder": PRESENCE, "shares": RANDOM, "signature": RANDOM},
}
FROM_THE_SERVER = {
    "RoundPlan", "HybridPlan", "SignedPlan",
    "Announcements", "SignedRoot", "Roots", "Delivery", "Deliveries", "UploadDigest",
    "Uploads", "Quorum",
}  # fmt: skip
RECOVERED = {"totals": CHARGED, "survivors": PRESENCE, "dropped": PRESENCE, "blamed": PRESENCE, "disputes": PRESENCE}
FRAMES = {  # the embedded engine's own plumbing, on one machine
    "Answer": {"client": PRESENCE, "payload": "wire", "refusal": PUBLIC},
    "Trained": {"client": ONE_MACHINE},  # for the bar on its terminal
    "Recovered": {"masked": PRESENCE},
    "Witnessed": {"client": PRESENCE, "line": RANDOM, "seen": PUBLIC},  # a signature on the server's own ledger
    "Costs": dict.fromkeys(
        ("rollouts_total", "training_total", "training_slowest", "privacy_total", "privacy_slowest"), ONE_MACHINE
    ),
    "Done": {},
    "Failed": {"reason": PUBLIC},
}
METRICS = {
    **dict.fromkeys(("round", "session", "bytes_up_per_client", "bytes_down_per_client", "epsilon_spent"), PUBLIC),
    **dict.fromkeys(("survivors", "dropped", "failed_sessions"), PRESENCE),
    **dict.fromkeys(("mean_weight", "mean_gain", "update_norm", "clip_norm", "fraction_within"), CHARGED),
    "seconds_server": OWN,
    **dict.fromkeys(("reward", "pass_rate", "pass_rate_greedy"), PUBLIC),  # of the released model, on public problems
}
SUMMARY = {
    **dict.fromkeys(("name", "rounds", "clients", "reproducible_entropy", "differential_privacy"), PUBLIC),
    **dict.fromkeys(("secure_aggregation", "warnings", "stopped", "weighting.rule"), PUBLIC),
    **dict.fromkeys(("dropouts", "failed_sessions"), PRESENCE),
}
SUMMARY_SECTIONS = {  # by the first part of a dotted name
    "reward": PUBLIC,  # of the released model, on public problems
    "pass_rate": PUBLIC,
    "privacy": PUBLIC,
    "aggregation": PUBLIC,
    "adapter": PUBLIC,
    "bytes": PUBLIC,
    "seconds": OWN,
}
KINDS = {CHARGED, PUBLIC, RANDOM, PRESENCE, OWN}


def structs(module):
    """The message types of a module with their fields."""
    found = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, msgspec.Struct))
    return {each.__name__: set(each.__struct_fields__) for each in found if each is not msgspec.Struct}


def test_every_field_of_every_message_from_a_client_has_a_reason_to_be_seen():
    from_clients = {name: fields for name, fields in structs(wire).items() if name not in FROM_THE_SERVER}
    assert from_clients == {name: set(fields) for name, fields in WIRE.items()}
    assert set(structs(wire)) >= FROM_THE_SERVER


def test_every_field_of_the_recovered_sum_and_of_the_engines_replies_has_one():
    assert {field.name for field in dataclasses.fields(Recovered)} == set(RECOVERED)
    replies = {name: fields for name, fields in structs(frames).items() if name in FRAMES}
    assert replies == {name: set(fields) for name, fields in FRAMES.items()}
    assert {reply.__name__ for reply in frames.Reply.__args__} == set(FRAMES)


def test_every_figure_of_a_round_has_one():
    assert {field.name for field in dataclasses.fields(RoundMetrics)} == set(METRICS)
    assert set(METRICS.values()) <= KINDS


def charges(ledger):
    """Session -> charge, of a ledger's closed sessions, and the sessions still open."""
    entries = [entry for entry in ledger.entries() if entry["kind"] != "budget"]
    closed = {entry["session"]: Fraction(entry["charge"]) for entry in entries if entry["kind"] != "intent"}
    return closed, {entry["session"] for entry in entries if entry["kind"] == "intent"} - set(closed)


@pytest.mark.slow
def test_every_sum_that_the_server_recovered_is_settled_at_the_noise_that_was_in_it(trial):
    federation = trial.federation("federation.rounds=3")
    losses = ({}, {"mask": {2}}, {"unmask": {5}})
    for number, lost in enumerate(losses):
        trial.conduct(federation, number, lost)
    closed, still_open = charges(federation.ledger)
    assert len(closed) == len(losses)
    assert not still_open
    lattice, plan = federation.privacy.lattice, federation.privacy
    for session, charge in zip(trial.sessions, closed.values(), strict=True):
        survivors = len(session.result.recovered.survivors)
        honest = survivors - plan.parameters.colluders
        assert charge == round_mu_squared(lattice.integer_bound, honest * plan.share_variance)
    for client, participant in federation.engine.hosts[0]._participants.items():
        own, unsettled = charges(participant.ledgers[0])
        assert set(own) | unsettled == set(closed)  # who was lost after its upload keeps its whole charge
        for session, name in zip(trial.sessions, closed, strict=True):
            if client in session.result.recovered.survivors and name in own:
                assert own[name] >= closed[name], client


@pytest.mark.slow
def test_a_session_that_failed_after_vectors_came_is_paid_for_though_nothing_was_released(trial):
    federation = trial.federation()
    with pytest.raises(Exception, match="clients remain"):
        trial.conduct(federation, 0, {"agree": set(range(5))})
    closed, still_open = charges(federation.ledger)
    assert not still_open
    assert list(closed.values()) == [federation.privacy.noise.charge]


@pytest.mark.slow
def test_every_figure_of_a_summary_has_a_reason_and_those_of_data_are_within_the_claim(trial):
    directory = trial.run()
    summary = json.loads(directory.summary.read_text())
    unexplained = [key for key in summary if key not in SUMMARY and key.split(".")[0] not in SUMMARY_SECTIONS]
    assert unexplained == []
    assert set(SUMMARY) <= set(summary)
    assert {key.split(".")[0] for key in summary if "." in key} - {"weighting"} == set(SUMMARY_SECTIONS)
    assert "not for publication" in json.loads(directory.simulation.read_text())["note"]
    assert summary["privacy.epsilon_spent"] <= summary["privacy.epsilon_server"]
    for line in directory.read_metrics():
        assert set(line if isinstance(line, dict) else dataclasses.asdict(line)) == set(METRICS)


def test_what_a_run_leaves_on_the_servers_side_is_known(trial):
    """Every file beside the owners' own folder: made from what the tables explain, or from the configuration."""
    directory = trial.run("federation.rounds=1")
    left = {path.relative_to(directory.root).parts[0] for path in directory.root.rglob("*") if path.is_file()}
    assert left <= {
        "config.toml", "metrics.jsonl", "summary.json", "adapter", "opening.json",  # tables above, and the model itself
        "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm",  # charges: public arithmetic on survivors
        "notes", "manifest.json", "privacy_statement.json", "deployment_registry.yaml", "report.html",
        "audit.json", "attacks.json",  # shadow runs and invented worlds, without anybody's data
        "roster.bin",  # public keys
    }  # fmt: skip
