"""Different clients are told different things, to get both shares of one: with its seed and its mask secret, a client's
upload is read like a letter.
"""

from collections.abc import Sequence

import msgspec

from protocols import envelope, labels, params, wire
from protocols.errors import ProtocolError
from protocols.params import Adversary
from protocols.wire import Step
from threat_model import views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.views import HeldShares
from threat_model.world import World

LYING_SERVER = "lying server"
WITH_COLLUDER = "lying server with 1 colluding client"
READ = "every value of the victim was recovered"


class SplitView:
    """Tells group 0 that everyone survived and group 1 that the victim dropped, and collects what each opens."""

    def __init__(self, at: World, victim: int) -> None:
        self.world = at
        self.victim = victim
        self.view = views.watch(at, Step.AGREE)
        truth = wire.decode(wire.Uploads, self.view.requests[Step.AGREE][at.ids[0]], views.LIMIT)
        lie = tuple(entry for entry in truth.entries if entry.client != victim)
        self.lists = (truth, msgspec.structs.replace(truth, entries=lie))
        self.seed, self.key = HeldShares(), HeldShares()
        self.refusals: list[ProtocolError] = []

    def collude(self, colluder: int) -> None:
        """Takes both shares out of a colluder's memory."""
        seed, key = views.held_by(self.world, colluder, self.victim)
        self.seed.points.update(seed.points)
        self.key.points.update(key.points)

    def sign_as(self, colluder: int, told: int) -> wire.Agreement:
        """A colluder's signature on list number `told`; it signs both."""
        entries = self.lists[told].entries
        dropped = () if told == 0 else (self.victim,)
        payload = wire.agreement_payload(wire.list_digest(self.view.s2, entries, dropped), colluder)
        return wire.Agreement(colluder, self.world.identities[colluder].sign(labels.SIGN_AGREEMENT, payload))

    def agree(self, group: Sequence[int], told: int) -> list[wire.Agreement]:
        """The group's signatures on list number `told`."""
        answers = self._ask_all(group, Step.AGREE, wire.encode(self.lists[told]))
        return [envelope.unverified(wire.Agreement, answer) for answer in answers]

    def open(self, group: Sequence[int], told: int, agreements: Sequence[wire.Agreement]) -> None:
        """Shows the group a quorum message of these signatures and keeps the shares that it opens."""
        message = wire.encode(wire.Quorum(self.view.session, tuple(agreements)))
        answers = self._ask_all(group, Step.UNMASK, message)
        found = self.key if told else self.seed
        found.points.update(views.opened(self.world.plan, answers, self.victim).points)

    def outcome(self) -> Outcome:
        """Whether the shares suffice, and what they tell."""
        plan, figures = self.world.plan, {"seed shares": float(len(self.seed.points))}
        figures |= {"mask key shares": float(len(self.key.points)), "threshold": float(plan.threshold)}
        seed, secret = self.seed.secret(plan.threshold), self.key.secret(plan.threshold)
        if seed is None or secret is None:
            return Outcome(False, self._why(), figures)
        others = [client for client in self.world.ids if client != self.victim]
        pairs = views.pair_secrets(secret, self.view.announced, others)
        read = views.unmasked(plan, self.view.upload(self.victim), seed, pairs, self.view.s2)
        return Outcome(views.reads(self.world, self.victim, read), READ, figures)

    def _why(self) -> str:
        counts = f"{len(self.seed.points)} and {len(self.key.points)} shares of {self.world.plan.threshold}"
        refusal = f"; {self.refusals[-1]}" if self.refusals else ""
        return f"the server got {counts}{refusal}"

    def _ask_all(self, group: Sequence[int], step: Step, message: bytes) -> list[bytes]:
        answers = []
        for client in group:
            try:
                answers.append(self.world.ask(client, step, message))
            except ProtocolError as refusal:
                self.refusals.append(refusal)
        return answers


def both_shares_of_the_same_clients() -> Outcome:
    """Asks everyone but the victim twice, first about one list of survivors and then about the other."""
    at = world.build()
    split = SplitView(at, at.ids[2])
    group = [client for client in at.ids if client != split.victim]
    for told in (0, 1):
        agreements = split.agree(group, told)
        split.open(group, told, agreements[: at.plan.quorum])
    return split.outcome()


def two_groups() -> Outcome:
    """Tells three honest clients one list and two another; the colluder signs both and gives its shares."""
    at = world.build(adversary=Adversary.HONEST_BUT_CURIOUS)
    return _open_both(SplitView(at, at.ids[2]), [at.colluder], repeated=1)


def repeated_signatures() -> Outcome:
    """The same with each signature shown as often as the quorum needs."""
    at = world.build(adversary=Adversary.HONEST_BUT_CURIOUS)
    return _open_both(SplitView(at, at.ids[2]), [at.colluder], repeated=at.plan.quorum)


def low_thresholds() -> Outcome:
    """Plans a quorum and a threshold of 2, so that each half of the cohort is enough."""
    at = world.build()
    at.change_plan(quorum=2, threshold=2)
    return _when_accepted(at, [at.colluder])


def threshold_of_one() -> Outcome:
    """Plans shares that each are the whole secret, and reads those of the colluder."""
    at = world.build()
    at.change_plan(threshold=1)
    try:
        split = SplitView(at, at.ids[2])
    except ProtocolError as refusal:
        return Outcome(False, f"every client refused the plan: {refusal}")
    split.collude(at.colluder)
    return split.outcome()


def colluders_in_one_cohort() -> Outcome:
    """Puts both colluders of a roster of 20 into a cohort of 6, and plans for one, a share of 0.1 of the cohort."""
    at = world.build(enrolled=20, max_corrupt=0.1, max_dropout=0.17)
    numbers = params.Parameters(Adversary.LYING_SERVER, 6, 1, 4, 4, 5, 5)
    at.plan = world.plan_for(at.roster, at.ids, numbers, dict(at.plan.context))
    return _when_accepted(at, [at.ids[4], at.ids[5]])


def _when_accepted(at: World, colluders: Sequence[int]) -> Outcome:
    try:
        split = SplitView(at, at.ids[2])
    except ProtocolError as refusal:
        return Outcome(False, f"every client refused the plan: {refusal}")
    return _open_both(split, colluders, repeated=1)


def _open_both(split: SplitView, colluders: Sequence[int], repeated: int) -> Outcome:
    honest = [client for client in split.world.ids if client not in (split.victim, *colluders)]
    middle = (len(honest) - 1 + len(honest) % 2) // 2
    for colluder in colluders:
        split.collude(colluder)
    for told, group in enumerate(([split.victim, *honest[:middle]], honest[middle:])):
        signed = split.agree(group, told) + [split.sign_as(colluder, told) for colluder in colluders]
        shown = sorted(signed, key=lambda agreement: agreement.signer) * repeated
        split.open(group, told, shown[: split.world.plan.quorum])
    return split.outcome()


def _without(module: str, line: str, instead: str, check: str) -> tuple[Weakening, ...]:
    return (Weakening(module, line, instead, check),)


ANSWERS_ONCE = "a client answers each step of a session once"
FORGETFUL = (
    Weakening(
        "protocols.drive",
        "        return self._replies.get((identity, session, step))",
        "        before = self._replies.get((identity, session, [*Step, *Step][[*Step].index(step) - 1]))\n"
        "        if before is not None and (identity, session, step) in self._replies:\n"
        "            self._states[identity, session] = before[0]\n"
        "        return None",
        ANSWERS_ONCE,
    ),
    Weakening(
        "protocols.drive",
        "        if (identity, session, step) in self._replies or "
        "self._status.get((identity, session)) != BEFORE[step]:\n"
        '            raise ValueError("the step is already answered, or the session does not stand there")\n'
        "        self._replies[identity, session, step] = (request_digest, reply)",
        "        self._replies[identity, session, step] = (state, reply)",
        ANSWERS_ONCE,
    ),
)
OWN_THRESHOLDS = Weakening(
    "protocols.member",
    "    refuse_weaker(plan.parameters, len(member.roster), limits.max_corrupt, limits.max_dropout)\n",
    "    return\n",
    "clients derive every threshold again and refuse weaker ones",
)
ONE_VIEW = "of one client, holders open the seed's shares or the mask key's, never both"

ATTACKS = (
    Attack("both-shares", LYING_SERVER, ONE_VIEW, FORGETFUL, both_shares_of_the_same_clients),
    Attack(
        "split-view-survivors",
        WITH_COLLUDER,
        "two groups of clients never open for different lists of survivors",
        _without(
            "protocols.client",
            "    if len(signers) < state.plan.quorum:\n",
            "    if len(signers) < 1:\n",
            "a quorum above half signed the list",
        ),
        two_groups,
    ),
    Attack(
        "repeated-signatures",
        WITH_COLLUDER,
        "a quorum is of distinct clients",
        _without(
            "protocols.client",
            "    if not wire.ascending(signers) or not set(signers) <= set(state.survivors):\n",
            "    if not set(signers) <= set(state.survivors):\n",
            "signers ascend, so none counts twice",
        ),
        repeated_signatures,
    ),
    Attack(
        "low-thresholds", WITH_COLLUDER, "a server may be stricter, never weaker", (OWN_THRESHOLDS,), low_thresholds
    ),
    Attack(
        "threshold-of-one",
        WITH_COLLUDER,
        "no client alone holds another's secret",
        (
            OWN_THRESHOLDS,
            Weakening(
                "protocols.shares",
                "    if not 2 <= threshold <= len(points)",
                "    if not 1 <= threshold <= len(points)",
                "a share is less than the secret",
            ),
        ),
        threshold_of_one,
    ),
    Attack(
        "colluders-in-one-cohort",
        "lying server with 2 colluding clients of a roster of 20",
        "a server that picks cohorts gains nothing by gathering its colluders in one",
        _without(
            "protocols.params",
            "    colluders = max(1, math.ceil(Fraction(str(max_corrupt)) * roster_size))\n",
            "    colluders = max(1, math.ceil(Fraction(str(max_corrupt)) * cohort))\n",
            "colluders are counted on the roster",
        ),
        colluders_in_one_cohort,
    ),
)
