"""Who of a host's owners has a place in the next session, and under which identity, roster and demands.

Worked out by the clients' side before every session: from the roster that they trust, today's date, and a plan of
their own for those who may take part. Nothing here is believed because the server says it.
"""

from collections.abc import Mapping
from functools import partial

from fgrpo_secure import enrolment, entropy, run_plan, schedule
from fgrpo_secure.adapters import Policy
from fgrpo_secure.client_policy import ClientPolicy
from fgrpo_secure.config import Config
from fgrpo_secure.engines.seat import Seat
from fgrpo_secure.engines.signatures import SharedVerifier
from fgrpo_secure.privacy.planner import InfeasiblePlan, PrivacyPlan
from fgrpo_secure.run_directory import RunDirectory
from fgrpo_secure.trust import Trust
from protocols.errors import FaultyServer, Refused
from protocols.member import Member


class Places:
    """See the module. `first` is the plan that the run began with, as these clients computed it."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        policy: Policy,
        first: PrivacyPlan,
        trust: Trust,
        server_key: bytes,
        verify: SharedVerifier,
    ) -> None:
        self._config = config
        self._directory = directory
        self._policy = policy
        self._first = first
        self._trust = trust
        self._server_key = server_key
        self._verify = verify
        self._planned: tuple[int, int] | None = None
        self._demands: ClientPolicy | None = None

    def give_out(self, seats: Mapping[int, Seat], shown: bytes) -> Refused | FaultyServer | None:
        """Give every seat its place under the roster that the server shows.

        Otherwise the objection with which all of them answer: the roster is no good, or leaves too few.
        """
        today = entropy.today()
        try:
            self._trust.see(shown)
            clients = schedule.clients(self._config, self._trust.roster, today)
            demands = self._demands_of(len(clients))
        except (Refused, FaultyServer) as problem:
            return problem
        except InfeasiblePlan as problem:
            return Refused(str(problem))
        for client, seat in seats.items():
            member = self._member(client, seat.name, demands, today)
            own = partial(run_plan.check_shard, self._config, self._trust.roster, clients, client)
            seat.take_place(member, demands, own, self._trust.goes_back_to(seat.authority))
        return None

    def _demands_of(self, count: int) -> ClientPolicy:
        roster = self._trust.roster
        if self._demands is None or self._planned != (count, len(roster)):
            plan = run_plan.replan(self._config, self._policy, self._first, count, len(roster))
            self._planned, self._demands = (count, len(roster)), run_plan.demands(self._config, plan)
        return self._demands

    def _member(self, client: int, name: str, demands: ClientPolicy, today: int) -> Member | None:
        identity = self._trust.identity(client, enrolment.replacement_key(self._directory, name))
        if identity is None:
            return None
        limits = demands.limits(-1, today)
        return Member(client, identity, self._trust.roster, self._server_key, limits, self._verify)
