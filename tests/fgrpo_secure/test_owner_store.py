"""The owner's durable state: one answer per step, rounds that only grow, nothing half written."""

import stat

import pytest

from fgrpo_secure.gain import Baseline
from fgrpo_secure.owner_store import AnswerConflict, OwnerStore

SESSION = b"s" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "owners" / "state.sqlite"


@pytest.fixture
def store(path):
    store = OwnerStore(path)
    yield store
    store.close()


def test_an_answer_survives_reopening_and_is_given_once(store, path):
    store.put(3, SESSION, "mask", b"d", b"state", b"reply")
    other = OwnerStore(path)
    assert other.reply(3, SESSION, "mask") == (b"d", b"reply")
    with pytest.raises(AnswerConflict):
        other.put(3, SESSION, "mask", b"e", b"state", b"another reply")
    assert other.reply(3, SESSION, "mask") == (b"d", b"reply")
    other.close()


def test_round_numbers_only_grow(store):
    assert store.last_round(1) == -1
    store.advance(1, 4)
    for stale in (4, 3):
        with pytest.raises(AnswerConflict):
            store.advance(1, stale)
    store.advance(1, 5)
    assert store.last_round(1) == 5
    assert store.last_round(2) == -1


def test_a_transaction_that_fails_leaves_nothing(store):
    def write_and_fail():
        with store.transaction():
            store.put(1, SESSION, "share", b"d", b"", b"r")
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert store.reply(1, SESSION, "share") is None


def test_identity_is_drawn_once(store):
    assert store.identity_seed(0, b"a" * 32) == b"a" * 32
    assert store.identity_seed(0, b"b" * 32) == b"a" * 32


def test_a_repeated_training_round_replaces_its_own_observation(store):
    store.put_baseline(0, 0, Baseline(1.0, 0.0, 1))
    store.put_baseline(0, 1, Baseline(2.0, 0.5, 2))
    assert store.baseline_before(0, 1) == Baseline(1.0, 0.0, 1)
    store.put_baseline(0, 1, Baseline(3.0, 0.5, 2))
    assert store.baseline_before(0, 2) == Baseline(3.0, 0.5, 2)
    assert store.baseline_before(0, 0) == Baseline()


def test_old_sessions_can_be_forgotten_without_touching_the_current_one(store):
    store.put(0, SESSION, "mask", b"d", b"", b"r")
    store.put(0, b"t" * 32, "mask", b"d", b"", b"r")
    store.put(1, SESSION, "mask", b"d", b"", b"r")
    store.forget_other_sessions(0, b"t" * 32)
    assert not store.answered(0, SESSION, "mask")
    assert store.answered(0, b"t" * 32, "mask")
    assert store.answered(1, SESSION, "mask")


def test_only_its_owner_may_read_the_file(store, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
