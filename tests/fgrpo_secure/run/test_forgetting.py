"""After a finished run no file of any owner holds a secret of it; during it a step leaves what the next one needs."""

import numpy as np
import pytest

from fgrpo_secure.client import session_records
from fgrpo_secure.client.participant import Participant
from fgrpo_secure.client.session_records import SessionRecords
from protocols import client as steps
from protocols.states import Agreed, Announced, Masked, Shared


def secrets_of(state):
    """Everything in a protocol state that opens a mask or a sealed share, by name."""
    if isinstance(state, Announced):
        yield from {"mask secret": state.mask_secret, "seal secret": state.seal_secret}.items()
    if isinstance(state, Shared):
        yield from {"mask secret": state.mask_secret, "seed": state.seed}.items()
        yield from (("sealing", peer.sealing) for peer in state.peers)
    if isinstance(state, Masked):
        yield from (("seed share", held.seed_share) for held in state.held)
        yield from (("key share", held.key_share) for held in state.held)
    if isinstance(state, Agreed):
        yield from (("opened share", opened.share) for opened in state.openings)


@pytest.fixture
def secrets(monkeypatch):
    """(name, bytes) of every secret of a run, as it passes by."""
    kept = []

    def watch(place, name, secrets_in):
        original = getattr(place, name)

        def watched(*arguments):
            made = original(*arguments)
            kept.extend((kind, bytes(data)) for kind, data in secrets_in(made) if len(set(data)) > 6)
            return made

        monkeypatch.setattr(place, name, watched)

    for step in ("announce_for", "share", "mask", "agree"):
        watch(steps, step, lambda made: secrets_of(made[0]))
    watch(
        Participant,
        "_contribution",
        lambda made: [
            ("noised vector", np.asarray(made.vector.values, "<i8").tobytes()[:400]),
            ("history", repr(made.baseline.mean).encode().ljust(16)[:16]),
        ],
    )
    return kept


def found(folder, secrets):
    """The kinds of secrets that lie in any file of a folder, journals and logs included."""
    text = b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    return {kind for kind, secret in secrets if kind != "history" and secret in text}


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["client", "none"])
def test_a_finished_run_leaves_no_secret_of_it_in_any_file_of_its_owners(trial, secrets, unit):
    directory = trial.run("federation.rounds=2", f"privacy.unit={unit}", text=text_for(trial, unit))
    assert {kind for kind, _ in secrets} >= {"mask secret", "seed", "seed share", "key share", "opened share"}
    assert found(directory.owners, secrets) == set()
    assert found(directory.root, secrets) == set()


@pytest.mark.slow
def test_with_rows_that_are_kept_the_search_finds_them(trial, secrets, monkeypatch):
    """The control: nothing is overwritten, no row is given up."""
    monkeypatch.setattr(SessionRecords, "forget_closed", lambda records, identity: None)
    original = SessionRecords.put

    def put(records, identity, session, step, digest, state, reply):
        original(records, identity, session, step, digest, state, reply)
        records._db.execute("CREATE TABLE IF NOT EXISTS kept (state BLOB)")
        records._db.execute("INSERT INTO kept VALUES (?)", (state,))

    monkeypatch.setattr(SessionRecords, "put", put)
    directory = trial.run("federation.rounds=2")
    assert found(directory.owners, secrets) >= {"mask secret", "seed", "seed share", "key share", "opened share"}


@pytest.mark.slow
def test_a_step_leaves_on_disk_what_the_next_one_needs_and_no_more(trial, secrets, monkeypatch):
    """Never both shares of a dealer once an outcome is signed, nor a seed or a mask secret once the vector left."""
    lying = []
    original = SessionRecords.put

    def put(records, identity, session, step, digest, state, reply):
        original(records, identity, session, step, digest, state, reply)
        (kept,) = records._db.execute(
            "SELECT state FROM session WHERE identity = ? AND session = ?", (identity, session)
        ).fetchone()
        if step in (session_records.Step.MASK, session_records.Step.AGREE, session_records.Step.UNMASK):
            lying.extend((step, kind) for kind, secret in secrets if kind in ("seed", "mask secret") and secret in kept)
        if step is session_records.Step.UNMASK:
            lying.extend((step, kind) for kind, secret in secrets if kind.endswith("share") and secret in kept)

    monkeypatch.setattr(SessionRecords, "put", put)
    trial.run("federation.rounds=1")
    assert lying == []


def text_for(trial, unit):
    return trial.text if unit == "client" else trial.text.replace("[privacy]\nepsilon = 60.0\n", "[privacy]\n")
