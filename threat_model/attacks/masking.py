"""What masks must hide, and from what they are made: generators, keys, scores, sizes."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocols import envelope, keys, labels, masks, ring, wire
from protocols.errors import ProtocolError
from protocols.params import Adversary
from protocols.states import Announced, Shared
from protocols.wire import Announcement, Deal, Step
from threat_model import views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.views import HeldShares
from threat_model.world import Wire, World

READ = "every value of the victim was recovered"
SEEDS = 4096  # searched twice at once: 2^24 pairs of them
SMALL = 1000  # an honest value's size: what tells the right seeds from others


def seed_search() -> Outcome:
    """An honest session with two dropouts; the two pair masks that remain on the victim's upload are searched for."""
    at = world.build(adversary=Adversary.HONEST_BUT_CURIOUS)
    victim, colluder, lost = at.ids[2], at.colluder, {at.ids[0], at.ids[1]}
    for client in at.ids:
        at.values[client] = world.invented_values(client, world.VECTORS, SMALL)
    kept: dict[int, Shared] = {}

    def remember(step: Step, client: int, up: bool, message: bytes) -> bytes:
        state = views.states_of(at, client) if step is Step.MASK and not up else None
        if client == colluder and isinstance(state, Shared):
            kept[client] = state
        return message

    link = Wire(at, {Step.MASK: lost}, remember)
    at.run(link)
    view = views.of_wire(at.plan, link)
    openings = list(view.answers[Step.UNMASK].values())
    known = {client: views.opened(at.plan, openings, client).secret(at.plan.threshold) for client in lost}
    secrets = {client: secret for client, secret in known.items() if secret} | {colluder: kept[colluder].mask_secret}
    seed = views.opened(at.plan, openings, victim).secret(at.plan.threshold) or b""
    name, length = at.plan.vectors[0]
    left = ring.unpack(view.upload(victim).vectors[0], length, at.plan.ring_bits)
    masks.add_mask(left, keys.self_key(seed, view.s2, victim, name), -1)
    for client, secret in secrets.items():
        shared = keys.agree(secret, view.announced[victim].mask_key)
        sign = -1 if victim < client else 1
        masks.add_mask(left, keys.pair_key(shared, view.s2, victim, client, name), sign)
    found = _search(left.astype(np.uint64), length)
    right = found is not None and bool(np.array_equal(found, at.values[victim][name]))
    figures = {"pairs of seeds tried": float(SEEDS) ** 2}
    return Outcome(right, READ if right else f"none of {SEEDS}^2 pairs of seeds leaves small values", figures)


def _search(left: NDArray[np.uint64], length: int) -> NDArray[np.int64] | None:
    """Small values x with left = x + stream(a) + stream(b) in the ring, for two short seeds a and b."""
    modulus = np.uint64((1 << world.RING_BITS) - 1)
    streams = np.stack(
        [
            np.frombuffer(labels.stream(seed.to_bytes(32, "little"), 8 * length), np.uint64) & modulus
            for seed in range(SEEDS)
        ]
    )
    order = np.argsort(streams[:, 0])
    sorted_firsts = streams[order, 0]
    for stream in streams:
        rest = (left - stream) & modulus
        low, high = (int(rest[0]) + offset for offset in (-SMALL, SMALL))
        start, end = np.searchsorted(sorted_firsts, [max(low, 0), high + 1])
        for other in order[start:end]:
            values = ring.to_signed((rest - streams[other]) & modulus, world.RING_BITS)
            if np.abs(values).max() <= SMALL:
                return values
    return None


def small_order() -> Outcome:
    """A lying client announces a mask key whose every agreement is zero: whoever reads the traffic has its masks."""
    at = world.build()
    victim, liar = at.ids[2], at.ids[-1]
    kept: dict[int, Shared] = {}

    def tamper(step: Step, client: int, up: bool, message: bytes) -> bytes:
        if (step, client, up) == (Step.ANNOUNCE, liar, True):
            own = msgspec.structs.replace(envelope.unverified(Announcement, message), mask_key=bytes(32))
            payload = wire.announcement_payload(wire.session_of(at.plan), own)
            signature = at.identities[liar].sign(labels.SIGN_ANNOUNCEMENT, payload)
            lie = msgspec.structs.replace(own, signature=signature)
            return envelope.sign(at.identities[liar], wire.session_of(at.plan), liar, step, lie)
        if (step, client, up) == (Step.MASK, victim, False):
            state = views.states_of(at, victim)
            kept.update({victim: state} if isinstance(state, Shared) else {})
        return message

    recovered = None
    link = Wire(at, {Step.AGREE: {liar}}, tamper)
    try:
        recovered, _ = at.run(link)
    except ProtocolError as failure:
        return Outcome(False, f"{failure}; {next(iter(link.refusals.values()), '')}")
    peer = next((peer for peer in kept[victim].peers if peer.id == liar), None)
    if peer is None:
        return Outcome(False, f"client {liar} {recovered.blamed[liar]}")
    guess = bytes(32)  # what everybody knows
    right = keys.agree(kept[victim].mask_secret, peer.mask_key) == guess
    return Outcome(right, "the pair mask between the victim and the liar follows from public bytes")


def classical_keys() -> Outcome:
    """Plans a classical session for clients that demand hybrid keys; a quantum computer solves it later."""
    at = world.build(post_quantum=True)
    victim = at.ids[2]
    numbers = at.plan.parameters
    at.plan = world.plan_for(at.roster, at.ids, numbers, dict(at.plan.context))
    solved: dict[int, Announced] = {}

    def logarithms(step: Step, client: int, up: bool, message: bytes) -> bytes:
        if (step, client, up) == (Step.SHARE, victim, False):
            state = views.states_of(at, victim)
            solved.update({victim: state} if isinstance(state, Announced) else {})
        return message

    link = Wire(at, tamper=logarithms)
    try:
        at.run(link)
    except ProtocolError as failure:
        return Outcome(False, f"{failure}; {next(iter(link.refusals.values()), '')}")
    view = views.of_wire(at.plan, link)
    seed = _seed_from_deal(at, view, solved[victim].seal_secret, victim)
    others = [client for client in at.ids if client != victim]
    pairs = views.pair_secrets(solved[victim].mask_secret, view.announced, others)
    read = views.unmasked(at.plan, view.upload(victim), seed, pairs, view.s2)
    return Outcome(views.reads(at, victim, read), READ)


def _seed_from_deal(at: World, view: views.ServerView, seal_secret: bytes, victim: int) -> bytes:
    """The seed, out of the boxes that the victim sealed, for whoever has its sealing secret."""
    deal = envelope.unverified(Deal, view.answers[Step.SHARE][victim])
    found = HeldShares()
    for leaf in (wire.decode(wire.Leaf, data, views.LIMIT) for data in deal.leaves):
        shared = keys.agree(seal_secret, view.announced[leaf.holder].seal_key)
        commitments = (leaf.seed_commitment, leaf.key_commitment)
        seal = keys.Seal.between(shared, view.s1, victim, leaf.holder, commitments)
        found.add(at.plan, leaf.holder, seal.open(keys.SEED, leaf.seed_box, leaf.seed_commitment))
    return found.secret(at.plan.threshold) or b""


def clear_scores() -> Outcome:
    """Reads weight and gain from the upload as if they were not masked."""
    at = world.build()
    victim = at.ids[2]
    at.values[victim]["scores"] = np.array([731, -42])
    view = views.watch(at, Step.AGREE)
    _, length = at.plan.vectors[1]
    read = ring.to_signed(ring.unpack(view.upload(victim).vectors[1], length, at.plan.ring_bits), at.plan.ring_bits)
    right = bool(np.array_equal(read, at.values[victim]["scores"]))
    return Outcome(right, "the victim's weight and gain were read" if right else "what was read is noise")


def upload_sizes() -> Outcome:
    """Tells from the lengths of encrypted messages which client had nothing to contribute."""
    at = world.build()
    idle = at.ids[3]
    at.values[idle] = {name: np.zeros(length, np.int64) for name, length in at.plan.vectors}
    requests = views.watch(at, Step.MASK).requests[Step.MASK]
    seen = views.sizes({client: at.ask(client, Step.MASK, message) for client, message in requests.items()})
    shortest = [client for client, size in seen.items() if size == min(seen.values())]
    figures = {"shortest": float(min(seen.values())), "longest": float(max(seen.values()))}
    return Outcome(
        shortest == [idle],
        "the idle client was picked out" if shortest == [idle] else f"all {len(shortest)} uploads have one length",
        figures,
    )


MASKED = "masks.Keystreams(signed_keys)"

ATTACKS = (
    Attack(
        "weak-mask-generator",
        "honest-but-curious server with 1 colluding client",
        "a mask has 256 bits of entropy, used in full",
        (
            Weakening(
                "protocols.masks",
                "algorithms.AES(key)",
                'algorithms.AES((int.from_bytes(key[:2], "little") % 4096).to_bytes(32, "little"))',
                "the whole key seeds the keystream",
            ),
        ),
        seed_search,
    ),
    Attack(
        "small-order-key",
        "network, with a lying client",
        "a pair key is known to its two clients alone",
        (
            Weakening(
                "protocols.keys",
                '        raise LowOrderPoint("a key of small order") from None',
                "        return bytes(32)",
                "an agreement that is zero is refused",
            ),
        ),
        small_order,
    ),
    Attack(
        "hybrid-downgrade",
        "network that records, and has a quantum computer later",
        "a client that demands hybrid keys takes part in no classical session",
        (
            Weakening(
                "protocols.member",
                "    if limits.post_quantum and not plan.post_quantum:\n",
                "    if False:\n",
                "the owner's demand for ML-KEM-768",
            ),
        ),
        classical_keys,
    ),
    Attack(
        "scores-in-the-clear",
        "honest-but-curious server",
        "weight and gain are seen in sums only",
        (
            Weakening(
                "protocols.client",
                MASKED,
                'masks.Keystreams(signed_keys if name != "scores" else [])',
                "scores are masked as the update is",
            ),
        ),
        clear_scores,
    ),
    Attack(
        "message-sizes",
        "network",
        "the size of a message follows from the plan alone",
        (
            Weakening(
                "protocols.client",
                "    return Masked(state.plan, state.session, s2, sharers, held, own), data\n",
                "    told = any(vector.any() for vector in values.values())\n"
                "    return Masked(state.plan, state.session, s2, sharers, held, own), data if told else data[:64]\n",
                "every upload has the plan's length",
            ),
        ),
        upload_sizes,
    ),
)
