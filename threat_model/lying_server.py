"""What a lying server does with the honest server's code: it goes on with whom it likes, below every floor."""

from collections.abc import Collection

import msgspec

from protocols.server import Recovered, State, open_session
from threat_model.world import Values, World


def relaxed(state: State) -> State:
    """The server's state without its own demands on numbers. What clients demand of it is not its to change."""
    collector = state._collector
    collector.plan = msgspec.structs.replace(collector.plan, floor=1, quorum=2)
    return state


def sum_of_few(world: World, clients: Collection[int]) -> Recovered:
    """Conducts the planned session as if only these clients had ever answered. Raises what they or the server raise."""
    state: State | Recovered = relaxed(open_session(world.server, world.plan, world.roster))
    while not isinstance(state, Recovered):
        for client in (client for client in state.outgoing if client in clients):
            state.receive(client, world.ask(client, state.step, state.outgoing[client]))
        state = state.close()
        if not isinstance(state, Recovered):
            state = relaxed(state)
    return state


def without(totals: Values, values: Values) -> Values:
    """What remains of a sum when a client whose values are known is taken out."""
    return {name: total - values[name] for name, total in totals.items()}
