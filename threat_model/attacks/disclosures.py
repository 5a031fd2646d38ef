"""What gets out without any message: a secret in a log line, a failure that only some data causes."""

import re

from protocols.errors import Malformed
from protocols.states import Shared, decode_state
from protocols.wire import Step
from threat_model import views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.world import World

READ = "every value of the victim was recovered"


def state_in_a_log() -> Outcome:
    """Reads the log of a client that writes down its state before each step; the server adds the upload."""
    at = world.build()
    victim, lines = at.ids[2], []
    view = views.watch(at, Step.MASK)
    lines.append(f"client {victim} goes on from {views.states_of(at, victim)!r}")
    view.answers[Step.MASK] = {victim: at.ask(victim, Step.MASK, view.requests[Step.MASK][victim])}
    for text in re.findall(r"[0-9a-f]{64,}", "\n".join(lines)):
        try:
            state = decode_state(bytes.fromhex(text))
        except Malformed:
            continue
        if isinstance(state, Shared):
            return _read(at, view, victim, state)
    return Outcome(False, f"{len(lines)} line shows the session's name and no secret")


def _read(at: World, view: views.ServerView, victim: int, state: Shared) -> Outcome:
    others = [client for client in at.ids if client != victim]
    pairs = views.pair_secrets(state.mask_secret, view.announced, others)
    read = views.unmasked(at.plan, view.upload(victim), state.seed, pairs, view.s2)
    return Outcome(views.reads(at, victim, read), READ)


ATTACKS = (
    Attack(
        "state-in-a-log",
        "reader of a client's log, with the server",
        "the text form of a state shows no secret",
        (
            Weakening(
                "protocols.states",
                '    return f"{type(state).__name__}(session={state.session.hex()[:16]})"',
                '    return f"{type(state).__name__}({encode_state(state).hex()})"',
                "a state shows its session's name alone",
            ),
        ),
        state_in_a_log,
    ),
)
