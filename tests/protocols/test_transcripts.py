"""Whole sessions give the slow implementation's bytes, message by message: nobody lost, one lost at each step, a wrong
share, and a sparse graph."""

import hashlib

import msgspec
import numpy as np
import pytest

from protocols import client, envelope, labels, wire
from protocols.errors import FaultyClient
from protocols.identity import Identity, verify_signature
from protocols.member import Limits, Member
from protocols.params import Adversary
from protocols.roster import Entry, Roster
from protocols.server import Recovered, open_session
from protocols.wire import Step


def bytes_of(name):
    """The rule of tests/reference/transcripts.py, which stands for randomness."""
    return labels.stream(labels.digest("vector", name), 32)


def values_of(plan, me):
    return {
        name: np.array([(7 * me + 3 * j + len(name)) % 101 - 50 for j in range(length)], np.int64)
        for name, length in plan.vectors
    }


def short(message):
    return hashlib.sha256(message).hexdigest()[:16]


def shorts(messages):
    return " ".join(short(messages[i]) for i in sorted(messages))


class Session:
    """The case's clients and its plan, built from the rules that stand in the reference."""

    def __init__(self, case, template, verify):
        ids = tuple(case["ids"])
        self.server = Identity.from_seed(bytes_of("server"))
        self.identities = {i: Identity.from_seed(bytes_of(f"identity {i}")) for i in ids}
        entries = tuple(Entry(i, f"client {i}", self.identities[i].public) for i in ids)
        self.roster = Roster(3, Identity.from_seed(bytes_of("authority")).public, entries)
        adversary = Adversary.LYING_SERVER if case["lying"] else Adversary.HONEST_BUT_CURIOUS
        limits = Limits(
            adversary,
            float(case["gamma"]),
            float(case["delta"]),
            min_cohort=len(ids),
            min_survivors=case["plan"]["floor"],
            last_session=template.session_number - 1,
            today=0,
            run=template.run,
        )
        self.members = {i: Member(i, self.identities[i], self.roster, self.server.public, limits, verify) for i in ids}
        self.plan = msgspec.structs.replace(
            template,
            roster_digest=self.roster.digest,
            cohort=ids,
            vectors=(("update", 3), ("scores", 1)),
            adversary=adversary,
            colluders=1,
            **case["plan"],
        )
        self.states, self.verify = {}, verify

    def answer(self, i, step, request):
        member, state = self.members[i], self.states.get(i)
        if step is Step.ANNOUNCE:
            made = client.announce(member, request, dict(self.plan.context), bytes_of(f"announce {i}"))
        elif step is Step.SHARE:
            made = client.share(member, state, request, bytes_of(f"share {i}"))
        elif step is Step.MASK:
            made = client.mask(member, state, request, values_of(self.plan, i))
        else:
            made = (client.agree if step is Step.AGREE else client.unmask)(member, state, request)
        before, self.states[i] = state, client.decode_state(client.encode_state(made[0]))
        return before, made[1]

    def lie(self, i, state, answer):
        """Another first share, rightly signed."""
        opening = envelope.unverified(wire.Opening, answer)
        opened = (wire.OpenedShare(opening.shares[0].dealer, bytes(33)), *opening.shares[1:])
        payload = wire.opening_payload(state.outcome, i, opened)
        signature = self.identities[i].sign(labels.SIGN_OPENING, payload)
        return envelope.sign(
            self.identities[i], wire.session_of(self.plan), i, Step.UNMASK, wire.Opening(i, opened, signature)
        )


def run(session, case):
    """(digests of requests, digests of answers, the result)."""
    state = open_session(session.server, session.plan, session.roster, session.verify)
    requests, answers = {}, {}
    while not isinstance(state, Recovered):
        step, down, up = state.step, dict(state.outgoing), {}
        for i in down:
            if i in case["lost"].get(step.value, ()):
                continue
            before, up[i] = session.answer(i, step, down[i])
            if step is Step.UNMASK and i == case.get("wrong"):
                up[i] = session.lie(i, before, up[i])
        requests[step.value] = short(next(iter(down.values()))) if len(set(down.values())) == 1 else shorts(down)
        answers[step.value] = shorts(up)
        for i, data in up.items():
            try:
                state.receive(i, data)
            except FaultyClient:
                assert i == case["wrong"]
        state = state.close()
    return requests, answers, state


@pytest.fixture(scope="module")
def cases(vectors):
    return vectors["transcripts"]


@pytest.fixture(scope="module")
def template(vectors):
    request = bytes.fromhex(vectors["session"]["requests"]["announce"]["1"])
    return wire.decode(wire.SignedPlan, request, wire.MAX_PLAN).plan


@pytest.fixture(scope="module")
def verify():
    """Each signature is checked once: it is the same arithmetic for every client."""
    good = set()

    def check(*signed):
        if signed not in good:
            verify_signature(*signed)
            good.add(signed)

    return check


def test_the_transcripts_cover_losses_at_every_step_a_wrong_share_and_a_sparse_graph(cases):
    lost = {step for case in cases.values() for step in case["lost"]}
    assert lost == {step.value for step in Step}
    assert any("wrong" in case for case in cases.values())
    assert any(case["plan"]["neighbours"] < len(case["ids"]) - 1 for case in cases.values())


def names():
    steps = [step.value for step in Step]
    yield from ("nobody is lost", "nobody is lost, honest-but-curious server", "a wrong share is opened")
    yield from (f"one is lost in {step}" for step in steps)
    yield from (f"two are lost, in {pair}" for pair in ("announce and mask", "share and mask", "mask and unmask"))


SPARSE = "sparse graph, one lost in mask and one in agree"


def test_every_transcript_is_compared(cases):
    assert {*names(), SPARSE} == set(cases)


@pytest.mark.parametrize("name", [*names(), pytest.param(SPARSE, marks=pytest.mark.slow)])
def test_every_message_of_a_whole_session_is_the_slow_implementations(name, cases, template, verify):
    case = cases[name]
    session = Session(case, template, verify)
    requests, answers, result = run(session, case)
    assert requests == case["requests"]
    assert answers == case["answers"]
    assert {key: total.tolist() for key, total in result.totals.items()} == case["totals"]
    assert list(result.survivors) == case["survivors"]
    assert list(result.dropped) == case["dropped"]
    assert sorted(result.blamed) == case["blamed"]


def test_the_slow_sums_are_plain_sums(cases, template):
    plan = msgspec.structs.replace(template, vectors=(("update", 3), ("scores", 1)))
    for case in cases.values():
        for name in case["totals"]:
            exact = sum(values_of(plan, i)[name] for i in case["survivors"])
            assert case["totals"][name] == exact.tolist()
