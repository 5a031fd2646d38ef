"""Every plan of a run, computed again from configuration and rosters, and every charge from its plan.

Nothing that a server says decides here: quorum, colluders, cohorts, noise and charges are those that each client
computed for itself before it took part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from fgrpo_secure.config.schema import Config
from fgrpo_secure.evidence.history import History, Round
from fgrpo_secure.ledger import clip_norm_history as clip_norms
from fgrpo_secure.ledger import cosigning, privacy_spent
from fgrpo_secure.ledger.entries import ids_text
from fgrpo_secure.ledger.testimony import Priced
from fgrpo_secure.plan import division, run_plan, schedule
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.plan.cost import InfeasiblePlan, PrivacyPlan
from fgrpo_secure.plan.terms import Admitted
from fgrpo_secure.storage.signed_file import BadFile
from protocols import wire
from protocols.errors import Refused
from protocols.roster import Roster
from protocols.wire import RoundPlan

Shards = tuple[tuple[int, ...], ...]


@dataclass
class Planner:
    """What configuration, rosters and the adapter's shape fix. `run` is the run's identity."""

    config: Config
    rosters: list[Roster]
    shape: AdapterShape
    run: bytes
    first: PrivacyPlan = field(init=False)
    prices: dict[str, Admitted] = field(default_factory=dict)  # of every session that was checked, by its name
    _replanned: dict[tuple[int, int], PrivacyPlan | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        enrolled, clients = len(self.rosters[0].members), self.config.clients_total
        if clients > enrolled:  # before anything is computed for so many
            raise BadFile(f"config.toml has {clients} clients, the first roster {enrolled}")
        self.first = run_plan.plan(self.config, self.shape)

    @property
    def budget(self) -> Fraction | None:
        """What the server's ledger may hold: the budgets of all units that its rounds cost; None without privacy."""
        claim = self.first.claim
        return None if claim is None else schedule.unit_budgets(self.config) * claim.budget

    def check(self, history: History) -> None:
        """Returns if every round is one that this run could have had; BadFile at the first that is not."""
        if history.budget != self.budget:
            raise BadFile("the ledger's budget is not the one that configuration and rosters give")
        shares: dict[int, float] = {}
        numbers: list[int] = []
        for found in history.rounds:
            self._check_round(found, shares)
            numbers += [session.plan.session_number for session in found.sessions]
            share = None if found.end is None else found.end.get("facts", {}).get(clip_norms.FRACTION)
            if share is not None:
                shares[found.training_round] = float.fromhex(share)
        if numbers != sorted(set(numbers)):
            raise BadFile("the ledger's sessions do not come in the order of their numbers")

    def priced(self, history: History) -> list[Priced]:
        """What each session cost whom, of a history that was checked."""
        return [priced for found in history.rounds if found.end is not None for priced in self._priced(found)]

    def _priced(self, found: Round) -> Iterator[Priced]:
        survivors, end = found.survivors, found.end or {}
        for session in found.sessions:
            admitted, ids = self.prices[session.name], survivors.get(session.name)
            yield Priced(
                number=session.plan.session_number,
                session=session.name,
                opened=found.position,
                ended=int(end["position"]),
                cohort=frozenset(session.plan.cohort),
                survivors=None if ids is None else frozenset(ids),
                settled=Fraction(0) if ids is None else admitted.settled(len(ids)),
                full=admitted.charge,
                refunded=Fraction(end["charge"]) == 0,
            )

    def _check_round(self, found: Round, shares: dict[int, float]) -> None:
        before = tuple(shares[number] for number in sorted(shares) if number < found.training_round)
        for privacy, roster, shards in self._ways(found):
            admitted = self._admitted(found, privacy, roster, shards, before)
            if admitted is not None:
                _check_charges(found, admitted, self.config)
                self.prices |= zip([session.name for session in found.sessions], admitted, strict=True)
                return
        raise BadFile(
            f"the plan of session {found.sessions[0].name[:16]} is not one that configuration and rosters give"
        )

    def _ways(self, found: Round) -> Iterator[tuple[PrivacyPlan, Roster, Shards]]:
        """Plan, roster and shards of a round: by the roster that it names, on each day on which that one changes.

        A round that went on in shards need not have opened all of them: one in which a liar showed itself stays closed.
        """
        number, named = found.training_round, found.sessions[0].plan.roster_digest
        if number >= self.config.federation.rounds:
            return
        cohorts = {session.plan.cohort for session in found.sessions}
        for privacy, roster, clients in self._ways_under([each for each in self.rosters if each.digest == named]):
            yield privacy, roster, schedule.partition(self.config, roster.digest, number, clients)
            small = division.plan(self.config, privacy, len(clients), len(roster))
            if small is not None:
                parts = division.partition(self.config, small, roster.digest, number, clients)
                yield small, roster, tuple(part for part in parts if part in cohorts)

    def _ways_under(self, rosters: Sequence[Roster]) -> Iterator[tuple[PrivacyPlan, Roster, tuple[int, ...]]]:
        for roster in rosters:
            ends = {member.last_day + 1 for member in roster.members if member.last_day is not None}
            for day in sorted({0, *ends}):
                if roster.last_day is not None and day > roster.last_day:
                    continue
                clients = schedule.clients(self.config, roster, day)
                privacy = self._plan_for(len(clients), len(roster))
                if privacy is not None:
                    yield privacy, roster, clients

    def possible(self, signed: frozenset[int]) -> dict[str, tuple[tuple[int, ...], int]]:
        """Cohort and quorum of every session that the run could have had, of those that `signed` may be too few of.

        **Why** A session that the server ran with clients of whom the ledger says nothing leaves no other trace: their
        signatures on the run's end say that they paid for none. Any two quorums of a cohort share an honest client.
        """
        found: dict[tuple[int, ...], tuple[int, int]] = {}
        for privacy, roster, clients in self._ways_under(self.rosters):
            if signed.issuperset(clients):
                continue
            small = division.plan(self.config, privacy, len(clients), len(roster))
            for training_round in range(self.config.federation.rounds):
                cohorts = schedule.partition(self.config, roster.digest, training_round, clients)
                if small is not None:  # clients go on in shards whenever they are asked to
                    cohorts += division.partition(self.config, small, roster.digest, training_round, clients)
                for cohort in cohorts:
                    if not signed.issuperset(cohort):
                        quorum = run_plan.parameters_of(self.config, privacy, len(roster), len(cohort)).quorum
                        found.setdefault(cohort, (training_round, quorum))
        return {
            f"a session that round {which + 1} could have had, of {ids_text(cohort)}": (cohort, quorum)
            for cohort, (which, quorum) in found.items()
        }

    def _plan_for(self, count: int, enrolled: int) -> PrivacyPlan | None:
        if (count, enrolled) not in self._replanned:
            try:
                found = run_plan.replan(self.config, self.shape, self.first, count, enrolled)
            except InfeasiblePlan:
                found = None
            self._replanned[count, enrolled] = found
        return self._replanned[count, enrolled]

    def _admitted(
        self, found: Round, privacy: PrivacyPlan, roster: Roster, shards: Shards, shares: tuple[float, ...]
    ) -> list[Admitted] | None:
        """The round's sessions as its clients admitted them; None unless every plan is what this way gives."""
        number = found.training_round
        if len(shards) != len(found.sessions):
            return None
        dimension, demands = self.shape.dimension(number), run_plan.demands(self.config, privacy)
        admitted = []
        for session, shard in zip(found.sessions, shards, strict=True):
            given: RoundPlan = run_plan.open_round(
                self.config,
                privacy,
                roster,
                dict(session.plan.context),
                number,
                session.plan.session_number,
                dimension,
                shard,
                self.run,
                shares,
            )
            if wire.session_of(given).hex() != session.name:
                return None
            try:
                admitted.append(demands.admit(given, dimension))
            except Refused:
                return None
        return admitted


def _check_charges(found: Round, admitted: list[Admitted], config: Config) -> None:
    """The entry charged what the costliest session costs at its worst, and settled at the noise that was there."""
    name = found.sessions[0].name[:16]
    if Fraction(found.opened["charge"]) != max(each.charge for each in admitted):
        raise BadFile(f"session {name} was charged another price than its plan gives")
    if found.end is None or found.outcome == "aborted":
        return
    survivors, terms = found.survivors, dict(zip([each.name for each in found.sessions], admitted, strict=True))
    if not survivors or not survivors.keys() <= terms.keys():
        raise BadFile(f"session {name} settles sessions that it never opened")
    for session in found.ended:
        ids = set(survivors[session.name])
        if not ids <= set(session.plan.cohort) or len(ids) < max(session.plan.floor, session.plan.quorum):
            raise BadFile(f"session {session.name[:16]} has survivors that its plan does not allow")
    ended = max(terms[each].settled(len(ids)) for each, ids in survivors.items())
    failed = max([each.charge for key, each in terms.items() if key not in survivors], default=Fraction(0))
    if Fraction(found.end["charge"]) not in (ended, max(ended, failed)):
        raise BadFile(f"session {name} was settled at another price than its survivors' noise gives")
    if found.end["survivors"] != sum(map(len, survivors.values())):
        raise BadFile(f"session {name} counts other survivors than it names")
    block = privacy_spent.facts(found.training_round, config.unit_blocks)
    facts = found.end["facts"]
    if (
        facts.get(privacy_spent.BLOCK) != block.get(privacy_spent.BLOCK)
        or facts["training_round"] != found.training_round
    ):
        raise BadFile(f"session {name} is counted for another round of training")


def expected_signers(found: Round) -> dict[str, tuple[tuple[int, ...], int]]:
    """Session -> (its cohort, how many of it must have signed), of the sessions of a settled round that ended."""
    return {f"session {session.name[:16]}": (session.plan.cohort, session.plan.quorum) for session in found.ended}


def failed_shards(found: Round) -> int:
    """Sessions of a settled round that ended without a sum."""
    return len(cosigning.sessions(found.opened)) - len(found.ended)
