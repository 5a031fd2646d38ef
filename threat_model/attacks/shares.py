"""Both shares of one client: with its seed and its mask secret, its upload is read like a letter."""

from collections.abc import Sequence

import msgspec

from protocols import wire
from protocols.errors import ProtocolError
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

    def agree(self, group: Sequence[int], told: int) -> list[wire.Agreement]:
        """The group's signatures on list number `told`."""
        answers = self._ask_all(group, Step.AGREE, wire.encode(self.lists[told]))
        return [wire.decode(wire.Agreement, answer, views.LIMIT) for answer in answers]

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


ANSWERS_ONCE = "a client answers each step of a session once"
FORGETFUL = (
    Weakening(
        "protocols.drive",
        "        return self._replies.get((identity, session, step))",
        "        if step is Step.AGREE and (identity, session, Step.MASK) in self._replies:\n"
        "            self._states[identity, session] = self._replies[identity, session, Step.MASK][0]\n"
        "        return None",
        ANSWERS_ONCE,
    ),
    Weakening(
        "protocols.drive",
        "        if (identity, session, step) in self._replies:\n"
        '            raise ValueError("the step is already answered")\n'
        "        self._replies[identity, session, step] = (request_digest, reply)",
        "        self._replies[identity, session, step] = (state, reply)",
        ANSWERS_ONCE,
    ),
)

ATTACKS = (
    Attack(
        "both-shares",
        LYING_SERVER,
        "of one client, holders open the seed's shares or the mask key's, never both",
        FORGETFUL,
        both_shares_of_the_same_clients,
    ),
)
