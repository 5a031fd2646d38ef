"""Being silenced, blamed or named for what others sent, and what a message costs before it is known whose it is."""

import tracemalloc
from collections.abc import Iterator, Mapping

from protocols import culprits, shards, wire
from protocols.errors import FaultyClient, FaultyClientOrServer, Ignored, ProtocolError
from protocols.server import Inbox, Recovered, open_session
from protocols.wire import Step
from threat_model import world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.world import World, invented

CLIENTS, COLLUDERS, TRIALS = 40, 4, 60
SLACK = 1 << 16  # bytes that a refusal itself may take


def garbage_under_a_name() -> Outcome:
    """Before the victim's own answer, in each step, something under its name that it never sent."""
    at = world.build()
    victim = at.ids[2]

    class Link:
        def exchange(self, step: Step, outgoing: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
            yield victim, wire.encode(wire.Signed(b"garbage", bytes(64)))
            for client in outgoing:
                yield client, at.ask(client, step, outgoing[client])

    try:
        recovered, _ = at.run(Link())
    except ProtocolError as failure:
        return Outcome(True, f"the session ended: {failure}")
    if victim in recovered.survivors and victim not in recovered.blamed:
        return Outcome(False, f"client {victim}'s own answers counted, and nobody is blamed")
    return Outcome(True, f"client {victim} is out, and blamed: it {recovered.blamed.get(victim, 'dropped')}")


def framed_by_intersection() -> Outcome:
    """Colluders spoil every session in which one victim stands beside them, until it stands in all failed groups."""
    framed = 0
    for trial in range(TRIALS):
        drawn = sorted(range(CLIENTS), key=lambda client: invented("trial", trial, client))
        victim, liars = drawn[0], frozenset(drawn[1 : 1 + COLLUDERS])
        failed = _spoiled(invented("roster", trial), victim, liars)
        framed += culprits.named(failed, COLLUDERS) == {victim}
    share = framed / TRIALS
    return Outcome(framed > 0, f"an innocent client was the one named in {framed} of {TRIALS} runs", {"share": share})


def _spoiled(roster: bytes, victim: int, liars: frozenset[int]) -> list[frozenset[int]]:
    """The groups of ten in which sums were out of bounds, until only the victim is in all of them."""
    failed: list[frozenset[int]] = []
    for number in range(30):
        dealt = map(frozenset, shards.partition(tuple(range(CLIENTS)), 4, roster, number))
        failed += [shard for shard in dealt if victim in shard and not shard.isdisjoint(liars)]
        if failed and len(frozenset.intersection(*failed)) == 1:
            break
    return failed


def upload_of_another_shape() -> Outcome:
    """An upload of the right size under somebody's name, which nobody signed: a million empty vectors."""
    at = world.build(vectors=(("update", 1_000_000),))
    inbox = _until_mask(at)
    data = wire.encode(wire.Upload(at.ids[0], (b"",) * (at.plan.upload_size // 2), bytes(64)))
    data = wire.encode(wire.Signed(data, bytes(64)))
    tracemalloc.start()
    try:
        inbox.receive(at.ids[0], data)
    except (Ignored, FaultyClient, FaultyClientOrServer):
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    evidence = f"{len(data)} bytes cost the server {peak} more"
    return Outcome(peak > len(data), evidence, {"bytes": len(data), "more": peak})


def _until_mask(at: World) -> Inbox:
    inbox: Inbox | Recovered = open_session(at.server, at.plan, at.roster)
    while isinstance(inbox, Inbox) and inbox.step is not Step.MASK:
        for client in inbox.outgoing:
            inbox.receive(client, at.ask(client, inbox.step, inbox.outgoing[client]))
        inbox = inbox.close()
    if isinstance(inbox, Recovered):
        raise TypeError("a session has a mask step")
    return inbox


ATTACKS = (
    Attack(
        "garbage-under-a-name",
        "network",
        "nobody is silenced or blamed for what it did not sign",
        (
            Weakening(
                "protocols.collect",
                "            session.verify(session.roster.public(client), labels.SIGN_MESSAGE, payload, signature)\n",
                "            pass\n",
                "the signature of every message's envelope",
            ),
        ),
        garbage_under_a_name,
    ),
    Attack(
        "framed-by-intersection",
        "lying client",
        "nobody honest is named while at most c lie",
        (
            Weakening(
                "protocols.culprits",
                "    return frozenset(client for client in one or () "
                "if _in_every(client, groups, colluders, search))\n",
                "    return frozenset.intersection(*groups)\n",
                "a client is named only if every set of at most c that meets all failed groups holds it",
            ),
        ),
        framed_by_intersection,
        f"{TRIALS} runs of {COLLUDERS} colluders among {CLIENTS}; passes if no innocent client is named in any",
    ),
    Attack(
        "upload-of-another-shape",
        "network",
        "a message costs no more memory than its bytes before its signature is right",
        (
            Weakening(
                "protocols.server",
                "            upload = Incoming.read(data, client, plan)  # copies nothing: garbage costs its bytes\n",
                "            body = wire.decode(wire.Signed, data, len(data)).body\n"
                "            wire.decode(wire.Upload, body, len(body))\n"
                "            upload = Incoming.read(data, client, plan)\n",
                "an upload is read by its layout, before anything is made of it",
            ),
        ),
        upload_of_another_shape,
    ),
)
