"""What gets out without any message: a secret in a log line, a failure that only some data causes."""

import re
import stat
import tempfile
from pathlib import Path

import numpy as np

from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.config import files as config_file
from fgrpo_secure.plan import round_settings
from protocols.errors import Malformed
from protocols.states import Shared, decode_state
from protocols.wire import Step
from threat_model import data_owner, views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.data_owner import Unanswered
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


def readable_store() -> Outcome:
    """Another user of the client's machine opens the file that holds the client's identity."""
    seed = world.invented("identity of the victim")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "owner.sqlite"
        store = ClientStore(path)
        store.enrol(0, seed)
        readable = bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
        found = readable and seed in _contents(path)
        store.close()
    mode = "is readable by everybody and holds the identity's seed" if found else "is its owner's alone"
    return Outcome(found, f"the store {mode}")


def _contents(path: Path) -> bytes:
    """The file with the journal beside it, which SQLite makes under the same permissions."""
    return b"".join(part.read_bytes() for part in sorted(path.parent.glob(f"{path.name}*")))


def visible_failure() -> Outcome:
    """Watches which clients still answer when the data of one of them cannot be trained on."""
    settings = round_settings.for_round(config_file.load("quickstart", []), 0, 400)
    silent = []
    for client in range(6):
        try:
            data_owner.contribute(client, np.ones(50), settings, broken=client == 3)
        except Unanswered as seen:
            silent.append((client, str(seen)))
    found = [client for client, _ in silent] == [3]
    what = silent[0][1] if silent else "all 6 clients sent noised vectors"
    return Outcome(found, what, {"answers": 6.0 - len(silent)})


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
    Attack(
        "readable-store",
        "another user of a client's machine",
        "a client's secrets are readable by its owner alone",
        (
            Weakening(
                "fgrpo_secure.client.store",
                "        path.chmod(0o600)",
                "        path.chmod(0o644)",
                "the store's permissions",
            ),
        ),
        readable_store,
    ),
    Attack(
        "visible-failure",
        "network, or a server of any kind",
        "a failure that depends on the data cannot be told from an ordinary round",
        (
            Weakening(
                "fgrpo_secure.client.round",
                "    except UnusableRound as reason:\n",
                "    except ZeroDivisionError as reason:\n",
                "unusable data contributes zero and the full noise share",
            ),
        ),
        visible_failure,
    ),
)
