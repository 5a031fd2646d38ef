"""Who of a host's owners has a place in the next session, and under which identity, roster and demands.

Worked out by the clients' side before every session: from the roster that they trust, today's date, and a plan of
their own for those who may take part. Nothing here is believed because the server says it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.client.membership import Trust
from fgrpo_secure.client.participant import Membership, Participant
from fgrpo_secure.config.schema import Config
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.plan import adapter_shape, run_plan, schedule
from fgrpo_secure.plan.cost import InfeasiblePlan, PrivacyPlan
from fgrpo_secure.plan.terms import RunTerms
from fgrpo_secure.shared_verifier import SharedVerifier
from protocols.errors import FaultyServer, Refused
from protocols.member import Member
from protocols.roster import Roster


class Assignment:
    """See the module. `first` is the plan that the run began with, as these clients computed it; `run` its name.

    `next_key` says where an owner, by name, puts the identity file of its next key.
    """

    def __init__(
        self,
        config: Config,
        next_key: Callable[[str], Path],
        adapted: AdaptedModel,
        first: PrivacyPlan,
        trust: Trust,
        server_key: bytes,
        verify: SharedVerifier,
        run: bytes,
    ) -> None:
        self._config = config
        self._next_key = next_key
        self._adapted = adapted
        self._first = first
        self._trust = trust
        self._server_key = server_key
        self._verify = verify
        self._run = run
        self._planned: tuple[int, int] | None = None
        self._demands: RunTerms | None = None
        self._divided: tuple[PrivacyPlan, RunTerms] | None = None

    @property
    def roster(self) -> Roster:
        """The newest roster that these clients were ever shown."""
        return self._trust.roster

    def assign(
        self, participants: Mapping[int, Participant], shown: bytes | None = None
    ) -> Refused | FaultyServer | None:
        """Tell every participant on what terms it takes part, under the roster that the server shows or the newest one
        that they know.

        Otherwise the objection with which all of them answer: the roster is no good, or leaves too few.
        """
        today = entropy.today()
        try:
            if shown is not None:
                self._trust.see(shown)
            clients = schedule.clients(self._config, self._trust.roster, today)
            demands = self._demands_of(len(clients))
        except (Refused, FaultyServer) as problem:
            return problem
        except InfeasiblePlan as problem:
            return Refused(str(problem))
        for client, participant in participants.items():
            small, divided = self._divided or (None, None)
            # The protocol's own least numbers are those of the smaller sets; the cohort itself must be one of the two.
            member = self._member(client, participant.name, divided or demands, today)
            own = partial(run_plan.check_shard, self._config, self._trust.roster, clients, client, small)
            signed = self._trust.goes_back_to(participant.authority)
            participant.assign(None if member is None else Membership(member, demands, divided, own, signed))
        return None

    def _demands_of(self, count: int) -> RunTerms:
        roster = self._trust.roster
        if self._demands is None or self._planned != (count, len(roster)):
            plan = run_plan.replan(self._config, adapter_shape.of(self._adapted), self._first, count, len(roster))
            self._planned, self._demands = (count, len(roster)), run_plan.demands(self._config, plan)
            self._divided = run_plan.divided(self._config, plan, count, len(roster))
        return self._demands

    def _member(self, client: int, name: str, demands: RunTerms, today: int) -> Member | None:
        identity = self._trust.identity(client, self._next_key(name))
        if identity is None:
            return None
        limits = demands.limits(self._run, today)
        return Member(client, identity, self._trust.roster, self._server_key, limits, self._verify)
