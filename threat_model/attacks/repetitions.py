"""The same thing twice: answers, rounds, randomness, boxes sent back."""

import tempfile
from dataclasses import replace
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.client.store import ClientStore
from protocols import envelope, ring, wire
from protocols.drive import ClientDriver
from protocols.errors import ProtocolError
from protocols.member import Member
from protocols.params import Adversary
from protocols.wire import Deal, Deliveries, RoundPlan, Step
from threat_model import views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.attacks.split_views import FORGETFUL
from threat_model.views import HeldShares
from threat_model.world import SEED, Values, World

LYING_SERVER = "lying server"
READ = "every value of the victim was recovered"


def repeated_upload() -> Outcome:
    """Asks for the upload again once the client's data has changed: under the same masks, the difference shows."""
    at = world.build()
    victim = at.ids[2]
    request = views.watch(at, Step.MASK).requests[Step.MASK][victim]
    before = at.values[victim]
    after = world.invented_values(10_000 + victim, world.VECTORS, 1000)
    uploads = []
    for values in (before, after):
        at.values[victim] = values
        try:
            uploads.append(_first_vector(at.plan, at.ask(victim, Step.MASK, request)))
        except ProtocolError as refusal:
            return Outcome(False, f"the victim stopped: {refusal}")
    found = _signed(uploads[1] - uploads[0])
    right = bool(np.array_equal(found, after["update"] - before["update"]))
    return Outcome(right, "the change of the victim's values was read" if right else "the same bytes came again")


def _first_vector(plan: RoundPlan, upload: bytes) -> NDArray[np.int64]:
    _, length = plan.vectors[0]
    packed = envelope.unverified(wire.Upload, upload).vectors[0]
    return ring.unpack(packed, length, plan.ring_bits).astype(np.int64)


def _signed(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return ring.to_signed(ring.reduce(values.astype(np.uint64), world.RING_BITS), world.RING_BITS)


def repeated_round() -> Outcome:
    """Conducts one session number twice, the second time without the victim, and subtracts the sums."""
    at = world.build()
    victim = at.ids[2]
    everyone, _ = at.run()
    others = tuple(client for client in at.ids if client != victim)
    at.change_plan(cohort=others, neighbours=len(others) - 1)
    for client in others:
        at.drivers[client].member = _tolerant(at, client)
    link = world.Wire(at)
    try:
        fewer, _ = at.run(link)
    except ProtocolError as failure:
        return Outcome(False, f"{failure}; {next(iter(link.refusals.values()))}")
    read = {name: everyone.totals[name] - fewer.totals[name] for name in everyone.totals}
    return Outcome(views.reads(at, victim, read), READ)


def _tolerant(at: World, client: int) -> Member:
    """A member whose owner accepts smaller cohorts: what is tested is the round counter alone."""
    member = at.drivers[client].member
    return replace(member, limits=replace(member.limits, min_cohort=5, min_survivors=4))


def restarted_round() -> Outcome:
    """The same with clients whose programs are stopped and started between the two, over their own files."""
    with tempfile.TemporaryDirectory() as folder:
        at = world.build()
        victim = at.ids[2]
        files = [_restart(at, client, Path(folder) / f"{client}.sqlite", 0) for client in at.ids]
        everyone, _ = at.run()
        at.change_plan(cohort=tuple(client for client in at.ids if client != victim), neighbours=4, settings=b"[]")
        for client in at.plan.cohort:
            files.append(_restart(at, client, Path(folder) / f"{client}.sqlite", 1))
            at.drivers[client].member = _tolerant(at, client)
        link = world.Wire(at)
        try:
            fewer, _ = at.run(link)
        except ProtocolError as failure:
            return Outcome(False, f"{failure}; {next(iter(link.refusals.values()))}")
        finally:
            for file in files:
                file.close()
    read = {name: everyone.totals[name] - fewer.totals[name] for name in everyone.totals}
    return Outcome(views.reads(at, victim, read), READ)


def _restart(at: World, client: int, path: Path, times: int) -> ClientStore:
    """A client's program over its file, with randomness that it did not use before."""
    store, draws = ClientStore(path), count()
    source = SEED.child("restarted", client, times)
    at.drivers[client] = ClientDriver(
        at.drivers[client].member,
        store.sessions,
        lambda size: source.bytes(size, next(draws)),
        lambda: at.loaded[client],
    )
    return store


def repeated_randomness() -> Outcome:
    """Every device is cloned, so that each draws the same bytes in two rounds; uploads of the two are subtracted."""
    uploads = []
    at = world.build()
    victim = at.ids[2]
    for number in (1, 2):
        at.change_plan(session_number=number)
        for client in at.ids:
            _draw_the_same(at, client)
        values = world.invented_values(number, world.VECTORS, 1000)
        at.values[victim] = values
        view = views.watch(at, Step.AGREE)
        uploads.append((_first_vector(at.plan, view.answers[Step.MASK][victim]), values["update"]))
    found = _signed(uploads[1][0] - uploads[0][0])
    right = bool(np.array_equal(found, uploads[1][1] - uploads[0][1]))
    return Outcome(right, "the change between two rounds was read" if right else "the difference is noise")


def _draw_the_same(at: World, client: int) -> None:
    draws = count()
    at.drivers[client] = ClientDriver(
        at.drivers[client].member,
        at.stores[client],
        lambda size: SEED.bytes(size, "cloned", client, next(draws)),
        lambda: at.loaded[client],
    )


def reused_keystream() -> Outcome:
    """Subtracts the two masked vectors of one upload: one keystream under both would leave the values' difference."""
    at = world.build()
    victim = at.ids[2]
    view = views.watch(at, Step.AGREE)
    both = [
        ring.unpack(packed, length, at.plan.ring_bits).astype(np.int64)
        for (_, length), packed in zip(at.plan.vectors, view.upload(victim).vectors, strict=True)
    ]
    shared = len(both[1])
    found = _signed(both[0][:shared] - both[1])
    truth = _signed(at.values[victim]["update"][:shared] - at.values[victim]["scores"])
    right = bool(np.array_equal(found, truth))
    return Outcome(right, "update and scores were read against each other" if right else "the difference is noise")


def share_reflection() -> Outcome:
    """Sends the victim's own sealed shares back to it as if two others had dealt them, then calls those two dropped.

    The victim opens what it takes for their mask keys' shares: shares of its own.
    """
    at = world.build(adversary=Adversary.HONEST_BUT_CURIOUS)
    victim, lost = at.ids[2], (at.ids[0], at.ids[1])
    view = views.watch(at, Step.MASK)
    deal = envelope.unverified(Deal, view.answers[Step.SHARE][victim])
    message = wire.decode(Deliveries, view.requests[Step.MASK][victim], views.LIMIT)
    reflected = tuple(
        msgspec.structs.replace(entry, leaf=deal.leaves[at.ids.index(entry.dealer)]) if entry.dealer in lost else entry
        for entry in message.leaves
    )
    view.requests[Step.MASK][victim] = wire.encode(msgspec.structs.replace(message, leaves=reflected))
    try:
        openings = _opened_without(at, view, lost)
    except ProtocolError as refusal:
        return Outcome(False, f"the victim stopped: {refusal}")
    points: dict[int, int] = {}
    for dealer in lost:
        found = views.opened(at.plan, [openings[victim]], dealer).points
        points |= {at.ids.index(dealer) + 1: share for share in found.values()}
    secret = HeldShares(points).secret(at.plan.threshold)
    seed = views.opened(at.plan, openings.values(), victim).secret(at.plan.threshold)
    if secret is None or seed is None:
        return Outcome(False, f"the victim opened {len(points)} shares of its own mask key")
    others = [client for client in at.ids if client != victim]
    pairs = views.pair_secrets(secret, view.announced, others)
    read: Values = views.unmasked(at.plan, view.upload(victim), seed, pairs, view.s2)
    return Outcome(views.reads(at, victim, read), READ)


def _opened_without(at: World, view: views.ServerView, lost: tuple[int, ...]) -> dict[int, bytes]:
    """The openings after the uploads of `lost` were held back. Raises what clients raise."""
    view.answers[Step.MASK] = {i: at.ask(i, Step.MASK, message) for i, message in view.requests[Step.MASK].items()}
    left = [client for client in at.ids if client not in lost]
    entries = tuple(
        wire.UploadDigest(client, wire.upload_digest(view.upload(client).vectors), view.upload(client).signature)
        for client in left
    )
    message = wire.encode(wire.Uploads(view.session, entries))
    signed = [envelope.unverified(wire.Agreement, at.ask(client, Step.AGREE, message)) for client in left]
    quorum = wire.encode(wire.Quorum(view.session, tuple(signed[: at.plan.quorum])))
    return {client: at.ask(client, Step.UNMASK, quorum) for client in left}


BOUND_TO_SESSION = "every mask key is bound to its session"
OWN_STREAM = "every vector has its own keystream"
BOUND_BOX = "a sealed share is bound to its dealer and its holder"

ATTACKS = (
    Attack(
        "repeated-upload",
        LYING_SERVER,
        "a client never masks two vectors with the same masks",
        FORGETFUL,
        repeated_upload,
    ),
    Attack(
        "repeated-round",
        LYING_SERVER,
        "a client contributes to a session number of a run once",
        (
            Weakening(
                "protocols.member",
                "    if plan.session_number <= limits.last_session:\n",
                "    if False:\n",
                "the round counter only grows",
            ),
            Weakening(
                "protocols.drive",
                "        if plan.session_number <= self.last_session(identity, server, plan.run):\n",
                "        if False:\n",
                "the round counter only grows",
            ),
        ),
        repeated_round,
    ),
    Attack(
        "restarted-round",
        LYING_SERVER,
        "a client that was started again knows which rounds it began",
        (
            Weakening(
                "fgrpo_secure.client.session_records",
                "        return -1 if last is None else int(last)",
                "        return -1",
                "the session numbers of a run are read from the disk",
            ),
        ),
        restarted_round,
    ),
    Attack(
        "mask-reuse-across-rounds",
        "honest-but-curious server, devices whose generator repeats itself",
        "a mask key belongs to one session even if the randomness does not",
        (
            Weakening(
                "protocols.keys",
                "    return labels.derive(shared, labels.KEY_PAIR, s2, ",
                "    return labels.derive(shared, labels.KEY_PAIR, b'', ",
                BOUND_TO_SESSION,
            ),
            Weakening(
                "protocols.keys",
                "    return labels.derive(seed, labels.KEY_SELF, s2, ",
                "    return labels.derive(seed, labels.KEY_SELF, b'', ",
                BOUND_TO_SESSION,
            ),
            Weakening(
                "protocols.client",
                "    mask_secret = labels.derive(randomness, labels.KEY_MASK_SECRET, session, member.id)",
                "    mask_secret = labels.derive(randomness, labels.KEY_MASK_SECRET, b'', member.id)",
                BOUND_TO_SESSION,
            ),
            Weakening(
                "protocols.client",
                "    seed = labels.derive(randomness, labels.KEY_SEED, s1, member.id)",
                "    seed = labels.derive(randomness, labels.KEY_SEED, b'', member.id)",
                BOUND_TO_SESSION,
            ),
        ),
        repeated_randomness,
    ),
    Attack(
        "mask-reuse-across-vectors",
        "honest-but-curious server",
        "no keystream masks two vectors",
        (
            Weakening(
                "protocols.keys",
                "s2, min(one, other), max(one, other), vector)",
                "s2, min(one, other), max(one, other), '')",
                OWN_STREAM,
            ),
            Weakening(
                "protocols.keys", "labels.KEY_SELF, s2, client, vector)", "labels.KEY_SELF, s2, client, '')", OWN_STREAM
            ),
        ),
        reused_keystream,
    ),
    Attack(
        "share-reflection",
        LYING_SERVER,
        "a client opens only what others dealt to it",
        (
            Weakening(
                "protocols.keys",
                "labels.derive(shared, labels.KEY_SEAL, s1, dealer, holder, *commitments)",
                "labels.derive(shared, labels.KEY_SEAL, s1, 0, 0, *commitments)",
                BOUND_BOX,
            ),
            Weakening(
                "protocols.keys",
                "labels.encode(labels.SEALED_SHARE, self.s1, self.dealer, self.holder, kind)",
                "labels.encode(labels.SEALED_SHARE, self.s1, 0, 0, kind)",
                BOUND_BOX,
            ),
            Weakening(
                "protocols.keys",
                "labels.digest(labels.COMMIT_SHARE, s1, dealer, holder, kind, share)",
                "labels.digest(labels.COMMIT_SHARE, s1, 0, 0, kind, share)",
                BOUND_BOX,
            ),
            Weakening(
                "protocols.client",
                "        if proven != signed[delivery.dealer]:\n",
                "        if False:\n",
                "a leaf stands under the root that its dealer signed",
            ),
        ),
        share_reflection,
    ),
)
