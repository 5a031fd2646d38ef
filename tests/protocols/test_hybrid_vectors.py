"""Known answers of hybrid sessions, made by the slow second implementation from SPEC.md, section 10."""

from dataclasses import replace

import pytest

from protocols import client, hybrid, kem, wire
from protocols.errors import Malformed
from protocols.identity import Identity
from protocols.server import Recovered, open_session
from protocols.wire import Step


def of_hex(text):
    return bytes.fromhex(text)


@pytest.fixture(scope="module")
def session(vectors):
    return vectors["hybrid"]["session"]


def known_encapsulation(session, reference_kem, client_id):
    """The stored randomness, one piece per encapsulation, into the slow ML-KEM."""
    left = iter(session["encapsulation"][str(client_id)])
    return lambda public: reference_kem.encaps(public, of_hex(next(left)))


@pytest.fixture(scope="module")
def reference_kem(vector_maker):
    return vector_maker.hybrid.mlkem


@pytest.fixture
def member_of(session, reference_kem, replay):
    def build(client_id):
        member = replay.build_member(session, client_id)
        limits = replace(member.limits, post_quantum=True)
        encapsulate = known_encapsulation(session, reference_kem, client_id)
        return replace(member, limits=limits, encapsulate=encapsulate)

    return build


def test_keys_secrets_and_pads_agree(vectors):
    v = {k: of_hex(x) if isinstance(x, str) else x for k, x in vectors["hybrid"]["primitives"].items()}
    pair = hybrid.KeyPair.from_seed(v["seed"])
    assert (pair.curve, pair.public) == (v["curve"], v["public"])
    assert kem.decapsulate(pair.kem, v["ciphertext"]) == v["secret"]
    rejected = v["implicit rejection"]
    assert kem.decapsulate(pair.kem, of_hex(rejected["ciphertext"])).hex() == rejected["secret"]
    s1, low, high = v["s1"], v["low"], v["high"]
    assert hybrid.pad_of(v["low_seed"], s1, low, high) == v["pad"]
    sealed = hybrid.seal_pad(lambda public: (v["secret"], v["ciphertext"]), v["public"], s1, low, high, v["pad"])
    assert [sealed.commitment.hex(), sealed.ciphertext.hex(), sealed.box.hex()] == v["sealed"]
    assert hybrid.open_pad(pair, s1, low, high, sealed) == v["pad"]
    for one, other in ((low, high), (high, low)):
        assert hybrid.pair_secret(v["curve_secret"], v["pad"], s1, one, other) == v["pair_secret"]
    sealing = hybrid.sealing_secret(v["curve_secret"], v["secret"], s1, high, low, v["ciphertext"])
    assert sealing == v["sealing_secret"]


def test_openssl_and_the_slow_ml_kem_open_each_others_ciphertexts(reference_kem):
    d, z = bytes(range(32)), bytes(range(32, 64))
    public, private = reference_kem.key_gen(d, z)
    ours = kem.private_key(d + z)
    assert ours.public_key().public_bytes_raw() == public
    secret, ciphertext = kem.encapsulate(public)
    assert reference_kem.decaps(private, ciphertext) == secret == kem.decapsulate(ours, ciphertext)
    with pytest.raises(Malformed):
        kem.decapsulate(ours, ciphertext[:-1])


def test_both_refuse_the_same_keys(reference_kem):
    public, _ = reference_kem.key_gen(bytes(32), bytes(32))
    for bad in (public[:-1], public + b"\0", b"\xff" * 1184, b"\x01\xfd" + public[2:]):
        assert not reference_kem.valid(bad)
        with pytest.raises(ValueError, match="ML-KEM"):
            kem.refuse_malformed(bad)
    assert reference_kem.valid(public)
    kem.refuse_malformed(public)


def test_a_whole_hybrid_session_of_clients_agrees(session, member_of, replay):
    for name in session["identities"]:
        member, state = member_of(int(name)), None
        for step in Step:
            if name not in session["answers"][step.value]:
                break
            state, answer = replay.act(
                session, member, state, step.value, of_hex(session["requests"][step.value][name])
            )
            assert answer.hex() == session["answers"][step.value][name]
            state = client.decode_state(client.encode_state(state))


def test_a_whole_hybrid_session_of_the_server_agrees(session, member_of):
    """The third of five clients drops: pads come from below, by its key, and from above, by its seed."""
    requests = session["requests"]
    plan = wire.decode(wire.SignedPlan, of_hex(requests["announce"]["1"]), wire.MAX_PLAN).plan
    assert isinstance(plan, wire.HybridPlan)
    state = open_session(Identity.from_seed(of_hex(session["server"])), plan, member_of(1).roster)
    while not isinstance(state, Recovered):
        step = state.step.value
        assert {str(i): state.outgoing[i].hex() for i in state.outgoing} == requests[step]
        for name, answer in session["answers"][step].items():
            state.receive(int(name), of_hex(answer))
        state = state.close()
    assert {name: total.tolist() for name, total in state.totals.items()} == session["totals"]
    assert (list(state.survivors), list(state.dropped), state.blamed) == (session["survivors"], [300], {})
    for name, total in session["totals"].items():
        columns = zip(*(session["values"][str(i)][name] for i in session["survivors"]), strict=True)
        assert total == [(sum(column) + 2**19) % 2**20 - 2**19 for column in columns]


def test_the_complaint_about_a_pad_that_does_not_open_is_the_slow_implementations(session, vectors, member_of, replay):
    case = vectors["hybrid"]["complaint"]
    member, state = member_of(case["client"]), None
    for step, request in (
        ("announce", session["requests"]["announce"][str(case["client"])]),
        ("share", case["announcements"]),
        ("mask", case["request"]),
    ):
        state, answer = replay.act(session, member, state, step, of_hex(request))
    assert answer == of_hex(case["answer"])
    assert state == client.Stopped(state.session, session_ids(session)[0])


def session_ids(session):
    return sorted(map(int, session["identities"]))
