"""Known answers, made by the slow second implementation from SPEC.md, hold for this one byte for byte."""

from pathlib import Path

import numpy as np
import pytest

from protocols import client, culprits, keys, labels, masks, merkle, params, ring, shards, shares, transcript, wire
from protocols.errors import FaultyClient, FaultyClientOrServer, FaultyServer, ProtocolError, Refused
from protocols.graph import Graph
from protocols.identity import Identity
from protocols.member import accept_roster
from protocols.params import Adversary
from protocols.roster import open_roster
from protocols.server import Recovered, open_session
from protocols.wire import Step

FOLDER = Path(__file__).parent.parent / "vectors"


def of_hex(text):
    return bytes.fromhex(text)


@pytest.mark.parametrize(
    "name", ["primitives", "session", "errors", pytest.param("transcripts", marks=pytest.mark.slow)]
)
def test_the_stored_answers_are_those_of_the_slow_implementation(name, vector_maker):
    stored = (FOLDER / f"{name}.json").read_text()
    assert stored == vector_maker.text(f"{name}.json"), f"{name}: run tests/reference/make_vectors.py"


def test_every_stored_file_is_made_by_the_slow_implementation(vector_maker):
    assert {path.name for path in FOLDER.iterdir()} == set(vector_maker.MAKERS)


@pytest.mark.parametrize("name", ["session", "hybrid"])
def test_the_slow_sessions_transcript_gives_its_sum(name, vectors):
    session = vectors["session"] if name == "session" else vectors["hybrid"]["session"]
    authority = Identity.from_seed(of_hex(session["authority"]))
    roster = open_roster(of_hex(session["roster"]), authority.public, 3)
    request = next(iter(session["requests"]["announce"].values()))
    plan = wire.decode(wire.SignedPlan, of_hex(request), wire.MAX_PLAN).plan
    data = of_hex(session["transcript"])
    read = transcript.decode(data, plan)
    assert wire.encode(read) == data
    result = transcript.recompute(plan, roster, read.entries)
    assert {key: total.tolist() for key, total in result.totals.items()} == session["totals"]
    assert (list(result.survivors), list(result.dropped)) == (session["survivors"], session["dropped"])
    assert (result.blamed, result.disputes) == ({}, ())


def test_shards_of_shards_and_the_named_match(vectors):
    case = vectors["primitives"]["shards of shards"]
    first = shards.partition(tuple(case["cohort"]), 2, of_hex(case["roster_digest"]), case["round"])
    refined = shards.refine(first, 2, of_hex(case["roster_digest"]), case["round"])
    assert [list(shard) for shard in refined] == case["out"]
    for case in vectors["primitives"]["named"]:
        groups = [frozenset(group) for group in case["groups"]]
        assert sorted(culprits.named(groups, case["colluders"])) == case["out"]


def test_encoding_hashing_and_derivation_agree(vectors):
    v = vectors["primitives"]
    assert labels.encode("hash list", 1, "text", b"\0\xff").hex() == v["encode"]["out"]
    assert labels.digest("hash upload", b"one", b"").hex() == v["hash"]["out"]
    d = v["derive"]
    assert labels.derive(of_hex(d["secret"]), d["label"], of_hex(d["s1"]), d["id"]).hex() == d["out"]
    assert labels.stream(of_hex(v["stream"]["key"]), 50).hex() == v["stream"]["out"]


def test_key_agreement_and_mask_keys_agree(vectors):
    v = vectors["primitives"]
    assert keys.agree(of_hex(v["x25519"]["secret"]), of_hex(v["x25519"]["public"])).hex() == v["x25519"]["out"]
    p = v["pair key"]
    for one, other in ((p["low"], p["high"]), (p["high"], p["low"])):
        assert keys.pair_key(of_hex(p["shared"]), of_hex(p["s2"]), one, other, p["vector"]).hex() == p["out"]
    s = v["self key"]
    assert keys.self_key(of_hex(s["seed"]), of_hex(s["s2"]), s["client"], s["vector"]).hex() == s["out"]


def test_shares_agree(vectors):
    v = vectors["primitives"]["shares"]
    dealt = shares.split(of_hex(v["secret"]), v["points"], v["threshold"], of_hex(v["key"]))
    assert [share.hex() for share in dealt] == v["out"]


def test_masks_and_packing_agree(vectors):
    for v in vectors["primitives"]["masks"]:
        total = np.zeros(v["length"], ring.lanes(v["bits"]))
        masks.add_mask(total, of_hex(v["key"]), 1)
        assert ring.reduce(total, v["bits"]).tolist() == v["out"]
    for v in vectors["primitives"]["packing"]:
        elements = np.array(v["elements"], ring.lanes(v["bits"]))
        assert ring.pack(elements, v["bits"]).hex() == v["out"]
        assert ring.unpack(of_hex(v["out"]), len(elements), v["bits"]).tolist() == v["elements"]


def test_trees_graphs_and_parameters_agree(vectors, make_world):
    v = vectors["primitives"]["merkle"]
    hashes = [merkle.leaf_hash(of_hex(leaf)) for leaf in v["leaves"]]
    assert merkle.root(hashes).hex() == v["root"]
    assert [[node.hex() for node in path] for path in merkle.inclusion_paths(hashes)] == v["paths"]
    g = vectors["primitives"]["graph"]
    plan = make_world().change_plan(
        cohort=tuple(g["cohort"]), neighbours=g["neighbours"], adversary=Adversary.HONEST_BUT_CURIOUS
    )
    graph = Graph(plan, of_hex(g["s1"]), g["announcers"])
    assert {str(i): list(graph.holders(i)) for i in g["announcers"]} == g["holders"]
    for p in vectors["primitives"]["shards"]:
        got = shards.partition(tuple(p["cohort"]), p["shards"], of_hex(p["roster_digest"]), p["round"])
        assert [list(shard) for shard in got] == p["out"]
    for p in vectors["primitives"]["parameters"]:
        adversary = Adversary.LYING_SERVER if p["lying"] else Adversary.HONEST_BUT_CURIOUS
        got = params.derive(adversary, p["roster"], p["cohort"], float(p["gamma"]), float(p["delta"]))
        assert [got.colluders, got.quorum, got.threshold, got.neighbours, got.floor] == p["out"]


@pytest.fixture
def session(vectors):
    return vectors["session"]


def test_a_whole_session_of_clients_agrees(session, replay):
    for name in session["identities"]:
        member, state = replay.build_member(session, int(name)), None
        for step in Step:
            if name not in session["answers"][step.value]:
                break
            state, answer = replay.act(
                session, member, state, step.value, of_hex(session["requests"][step.value][name])
            )
            assert answer.hex() == session["answers"][step.value][name]
            state = client.decode_state(client.encode_state(state))


def test_a_whole_session_of_the_server_agrees(session, replay):
    member = replay.build_member(session, 1)
    requests = session["requests"]
    plan = wire.decode(wire.SignedPlan, of_hex(requests["announce"]["1"]), wire.MAX_PLAN).plan
    state = open_session(Identity.from_seed(of_hex(session["server"])), plan, member.roster)
    while not isinstance(state, Recovered):
        step = state.step.value
        assert {str(i): state.outgoing[i].hex() for i in state.outgoing} == requests[step]
        for name, answer in session["answers"][step].items():
            state.receive(int(name), of_hex(answer))
        state = state.close()
    assert {name: total.tolist() for name, total in state.totals.items()} == session["totals"]
    assert list(state.survivors) == session["survivors"]
    assert list(state.dropped) == session["dropped"]
    assert state.blamed == {}


def test_the_slow_session_sums_to_the_plain_sum_modulo_the_ring(session):
    for name, total in session["totals"].items():
        columns = zip(*(session["values"][str(i)][name] for i in session["survivors"]), strict=True)
        exact = np.array([sum(column) for column in columns], np.int64)
        assert total == ring.to_signed(ring.to_ring(exact, 20), 20).tolist()


def test_the_same_requests_are_refused_with_the_same_blame(session, vectors, replay):
    kinds = {"server": FaultyServer, "refused": Refused, "either": FaultyClientOrServer}
    order = [step.value for step in Step]
    assert len(vectors["errors"]) > 20
    for case in vectors["errors"]:
        member, state = replay.build_member(session, 1, today=case["today"]), None
        for step in order[: order.index(case["step"])]:
            state, _ = replay.act(session, member, state, step, of_hex(session["requests"][step]["1"]))
        with pytest.raises(kinds.get(case["blames"], FaultyClient)) as caught:
            replay.act(session, member, state, case["step"], of_hex(case["request"]))
        assert type(caught.value) is kinds.get(case["blames"], FaultyClient), case["name"]


def test_a_history_of_rosters_is_accepted_and_pinned_step_by_step(vectors):
    v = vectors["rosters"]
    first = v["history"][0]
    kept = open_roster(of_hex(first["roster"]), of_hex(v["pinned"]), 1)
    for expected in v["history"]:
        kept = accept_roster(kept, of_hex(expected["roster"]), of_hex(v["server"]))
        assert [kept.version, kept.digest.hex(), kept.authority.hex()] == [
            expected["version"],
            expected["digest"],
            expected["authority"],
        ]
        assert open_roster(of_hex(expected["roster"]), of_hex(v["pinned"]), 1) == kept


def test_the_same_rosters_are_refused_with_the_same_blame(vectors):
    v = vectors["rosters"]
    kept = open_roster(of_hex(v["history"][-1]["roster"]), of_hex(v["pinned"]), 1)
    assert len(v["refused"]) > 15
    for case in v["refused"]:
        kind = {"server": FaultyServer, "refused": Refused}[case["blames"]]
        with pytest.raises(ProtocolError) as caught:
            accept_roster(kept, of_hex(case["roster"]), of_hex(v["server"]))
        assert type(caught.value) is kind, case["name"]
