"""Parts of the session are hidden from some clients: who announced, who dealt, who is too many."""

import msgspec

from protocols import envelope, keys, labels, shards, wire
from protocols.errors import ProtocolError
from protocols.params import Adversary
from protocols.states import Shared
from protocols.wire import Deliveries, Roots, Step
from threat_model import lying_server, views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.views import HeldShares, ServerView
from threat_model.world import Wire, World

WITH_COLLUDER = "lying server with 1 colluding client"
READ = "every value of the victim was recovered"


def alone_with_the_colluder() -> Outcome:
    """Tells the victim that of all clients only it and the colluder announced, dealt and uploaded."""
    return _pair(world.build(adversary=Adversary.HONEST_BUT_CURIOUS))


def small_floor() -> Outcome:
    """Plans a session that may end with two, and calls the other four lost."""
    at = world.build()
    at.change_plan(quorum=2, threshold=2, floor=2)
    return _pair(at)


def _pair(at: World) -> Outcome:
    victim, colluder = at.ids[2], at.colluder
    try:
        recovered = lying_server.sum_of_few(at, {victim, colluder})
    except ProtocolError as refusal:
        return Outcome(False, f"the victim stopped: {refusal}")
    read = lying_server.without(recovered.totals, at.values[colluder])
    return Outcome(views.reads(at, victim, read), READ)


def hidden_dealers() -> Outcome:
    """Tells the victim that only a client D and the colluder dealt, and the others that D dropped after dealing.

    The victim's pair masks are then with D, whose mask key is opened, and the colluder alone; its seed is opened too.
    """
    at = world.build()
    victim, lost, colluder = at.ids[2], at.ids[1], at.colluder
    view = views.watch(at, Step.MASK)
    known = views.states_of(at, colluder)
    assert isinstance(known, Shared)  # noqa: S101  # narrows the type
    told, s2 = _without_dealers(view, victim, {victim, lost, colluder})
    refusals: list[ProtocolError] = []
    uploads = {}
    for client, message in view.requests[Step.MASK].items():
        try:
            uploads[client] = at.ask(client, Step.MASK, told if client == victim else message)
        except ProtocolError as refusal:
            return Outcome(False, f"the victim stopped: {refusal}")
    seed, key = _opened(at, view.session, uploads, victim, lost, refusals)
    if seed is None or key is None:
        return Outcome(False, f"nothing of use was opened: {refusals[-1]}")
    mask_key = view.announced[victim].mask_key
    pairs = {lost: keys.agree(key, mask_key), colluder: keys.agree(known.mask_secret, mask_key)}
    upload = envelope.unverified(wire.Upload, uploads[victim])
    return Outcome(views.reads(at, victim, views.unmasked(at.plan, upload, seed, pairs, s2)), READ)


def overlapping_shards() -> Outcome:
    """Plans the victim's shard, and then the same one with a colluder of another shard in the victim's place."""
    at = world.build(enrolled=12, max_dropout=0.17)
    everyone = tuple(at.identities)
    parts = shards.partition(everyone, 2, at.roster.digest, 1)
    victim, outsider = parts[0][2], parts[1][0]
    at.admits = lambda client, plan: shards.refuse_other(client, plan.cohort, parts)
    sums = []
    for number, cohort in enumerate((parts[0], tuple(sorted({*parts[0], outsider} - {victim}))), 1):
        at.change_plan(session_number=number, cohort=cohort)
        link = Wire(at)
        try:
            sums.append(at.run(link)[0].totals)
        except ProtocolError as failure:
            return Outcome(False, f"{failure}; {next(iter(link.refusals.values()))}")
    read = {name: sums[0][name] - sums[1][name] + at.values[outsider][name] for name in sums[0]}
    return Outcome(views.reads(at, victim, read), READ)


def _without_dealers(view: ServerView, victim: int, dealers: set[int]) -> tuple[bytes, bytes]:
    """The victim's message of the mask step with these dealers alone, and the S2 that it leads to."""
    message = wire.decode(Deliveries, view.requests[Step.MASK][victim], views.LIMIT)
    roots = wire.decode(Roots, message.roots, views.LIMIT)
    fewer = wire.encode(Roots(roots.session, tuple(entry for entry in roots.entries if entry.dealer in dealers)))
    leaves = tuple(entry for entry in message.leaves if entry.dealer in dealers)
    s2 = labels.digest(labels.HASH_DEALT, view.s1, fewer)
    return wire.encode(msgspec.structs.replace(message, roots=fewer, leaves=leaves)), s2


def _opened(
    at: World, session: bytes, uploads: dict[int, bytes], victim: int, lost: int, refusals: list[ProtocolError]
) -> tuple[bytes | None, bytes | None]:
    """The victim's seed and the lost client's mask secret, as far as the other clients open them."""
    entries = []
    for client, upload in ((client, envelope.unverified(wire.Upload, data)) for client, data in uploads.items()):
        if client != lost:
            entries.append(wire.UploadDigest(client, wire.upload_digest(upload.vectors), upload.signature))
    asked = [client for client in at.ids if client not in (victim, lost)]
    agreements = _answers(at, asked, Step.AGREE, wire.encode(wire.Uploads(session, tuple(entries))), refusals)
    signed = tuple(envelope.unverified(wire.Agreement, answer) for answer in agreements)
    quorum = wire.encode(wire.Quorum(session, signed[: at.plan.quorum]))
    openings = _answers(at, asked, Step.UNMASK, quorum, refusals)
    found: list[HeldShares] = [views.opened(at.plan, openings, dealer) for dealer in (victim, lost)]
    return found[0].secret(at.plan.threshold), found[1].secret(at.plan.threshold)


def _answers(at: World, asked: list[int], step: Step, message: bytes, refusals: list[ProtocolError]) -> list[bytes]:
    answers = []
    for client in asked:
        try:
            answers.append(at.ask(client, step, message))
        except ProtocolError as refusal:
            refusals.append(refusal)
    return answers


ATTACKS = (
    Attack(
        "split-view-announcements",
        WITH_COLLUDER,
        "a client goes on only with as many others as the plan's floor, and opens only for a quorum of them",
        (
            Weakening("protocols.client", "    if count < plan.floor:\n", "    if False:\n", "the floor"),
            Weakening(
                "protocols.client",
                "    if len(signers) < state.plan.quorum:\n",
                "    if len(signers) < 1:\n",
                "a quorum above half signed the list",
            ),
        ),
        alone_with_the_colluder,
    ),
    Attack(
        "split-view-sharers",
        WITH_COLLUDER,
        "whoever opens for a client saw the same sharers as that client did",
        (
            Weakening(
                "protocols.client",
                "    _check_floor(state.plan, len(sharers))\n",
                "",
                "the floor on sharers",
            ),
            Weakening(
                "protocols.client",
                "member.verify(member.roster.public(entry.client), labels.SIGN_UPLOAD, payload, entry.signature)",
                "pass",
                "an upload is signed under the view of who opens for it",
            ),
        ),
        hidden_dealers,
    ),
    Attack(
        "sum-of-two",
        WITH_COLLUDER,
        "a sum is over at least three honest clients",
        (
            Weakening(
                "protocols.member",
                "    refuse_weaker(plan.parameters, len(member.roster), limits.max_corrupt, limits.max_dropout)\n",
                "    return\n",
                "clients derive every threshold again and refuse weaker ones",
            ),
            Weakening(
                "protocols.member",
                "    if plan.floor < limits.min_survivors:\n",
                "    if False:\n",
                "the owner's own least number of survivors",
            ),
        ),
        small_floor,
    ),
    Attack(
        "overlapping-shards",
        WITH_COLLUDER,
        "no two cohorts of a round share a client",
        (
            Weakening(
                "protocols.shards",
                "    if client not in cohort or cohort not in own_round:\n",
                "    if client not in cohort:\n",
                "a client computes its own shard",
            ),
        ),
        overlapping_shards,
    ),
)
