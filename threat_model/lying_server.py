"""What a lying server does with the honest server's code: it goes on with whom it likes, below every floor."""

from collections.abc import Collection
from dataclasses import replace

import msgspec

from protocols.server import Inbox, Recovered, open_session
from threat_model.world import Values, World


def relaxed(inbox: Inbox) -> Inbox:
    """The server's step without its own demands on numbers. What clients demand of it is not its to change."""
    state = inbox.state
    session = replace(state.session, plan=msgspec.structs.replace(state.session.plan, floor=1, quorum=2))
    inbox.state = replace(state, session=session)  # type: ignore[type-var]  # every state is a frozen dataclass
    return inbox


def sum_of_few(world: World, clients: Collection[int]) -> Recovered:
    """Conducts the planned session as if only these clients had ever answered. Raises what they or the server raise."""
    inbox: Inbox | Recovered = open_session(world.server, world.plan, world.roster)
    while not isinstance(inbox, Recovered):
        relaxed(inbox)
        for client in (client for client in inbox.outgoing if client in clients):
            inbox.receive(client, world.ask(client, inbox.step, inbox.outgoing[client]))
        inbox = inbox.close()
    return inbox


def without(totals: Values, values: Values) -> Values:
    """What remains of a sum when a client whose values are known is taken out."""
    return {name: total - values[name] for name, total in totals.items()}
