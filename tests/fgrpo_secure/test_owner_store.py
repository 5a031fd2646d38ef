"""The owner's durable state: one answer per step, rounds that only grow, nothing half written."""

import stat

import pytest

from fgrpo_secure.gain import Baseline
from fgrpo_secure.owner_store import AnswerConflict, OwnerStore
from protocols.wire import Step

SESSION = b"s" * 32
ONE, TWO = b"1" * 32, b"2" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "owners" / "state.sqlite"


@pytest.fixture
def store(path):
    store = OwnerStore(path)
    yield store
    store.close()


def test_an_answer_survives_reopening_and_is_given_once(store, path):
    store.put(ONE, SESSION, Step.MASK, b"d", b"state", b"reply")
    other = OwnerStore(path)
    assert other.reply(ONE, SESSION, Step.MASK) == (b"d", b"reply")
    with pytest.raises(AnswerConflict):
        other.put(ONE, SESSION, Step.MASK, b"e", b"state", b"another reply")
    assert other.reply(ONE, SESSION, Step.MASK) == (b"d", b"reply")
    other.close()


def test_the_state_is_that_of_the_last_answered_step(store):
    assert store.state(ONE, SESSION) is None
    for step in Step:
        store.put(ONE, SESSION, step, b"d", step.value.encode(), b"r")
        assert store.state(ONE, SESSION) == step.value.encode()
    assert store.state(TWO, SESSION) is None


def test_round_numbers_only_grow(store):
    assert store.last_round(ONE) == -1
    store.advance(ONE, 4)
    for stale in (4, 3):
        with pytest.raises(AnswerConflict):
            store.advance(ONE, stale)
    store.advance(ONE, 5)
    assert store.last_round(ONE) == 5
    assert store.last_round(TWO) == -1


def test_a_transaction_that_fails_leaves_nothing(store):
    def write_and_fail():
        with store.transaction():
            store.put(ONE, SESSION, Step.SHARE, b"d", b"", b"r")
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert store.reply(ONE, SESSION, Step.SHARE) is None


def test_an_identity_is_stored_once(store):
    store.enrol(0, b"a" * 32)
    with pytest.raises(AnswerConflict):
        store.enrol(0, b"b" * 32)
    assert store.identity_seed(0) == b"a" * 32
    with pytest.raises(KeyError):
        store.identity_seed(1)


def test_a_repeated_training_round_replaces_its_own_observation(store):
    store.put_baseline(0, 0, Baseline(1.0, 0.0, 1))
    store.put_baseline(0, 1, Baseline(2.0, 0.5, 2))
    assert store.baseline_before(0, 1) == Baseline(1.0, 0.0, 1)
    store.put_baseline(0, 1, Baseline(3.0, 0.5, 2))
    assert store.baseline_before(0, 2) == Baseline(3.0, 0.5, 2)
    assert store.baseline_before(0, 0) == Baseline()


def test_sessions_can_be_forgotten_without_touching_another_owners(store):
    store.put(ONE, SESSION, Step.MASK, b"d", b"", b"r")
    store.put(TWO, SESSION, Step.MASK, b"d", b"", b"r")
    store.forget_sessions(ONE)
    assert store.reply(ONE, SESSION, Step.MASK) is None
    assert store.reply(TWO, SESSION, Step.MASK) is not None


def test_only_its_owner_may_read_the_file(store, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
