"""The owner's durable state: one answer per step, rounds that only grow, nothing half written."""

import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.client.store import AnswerConflict, ClientStore, write_baseline
from fgrpo_secure.gain import Baseline, Observation

RUN = b"r" * 16
ONE = b"1" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "owners" / "state.sqlite"


@pytest.fixture
def store(path):
    store = ClientStore(path)
    yield store
    store.close()


def test_a_transaction_that_fails_leaves_nothing(store, make_plan):
    def write_and_fail():
        with store.transaction():
            store.sessions.accept(ONE, b"server", make_plan(1))
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert store.sessions.last_session(ONE, b"server", b"r" * 16) == -1


def test_an_identity_is_stored_once(store):
    store.enrol(0, b"a" * 32)
    with pytest.raises(AnswerConflict):
        store.enrol(0, b"b" * 32)
    assert store.identity_seed(0) == b"a" * 32
    with pytest.raises(KeyError):
        store.identity_seed(1)


def test_a_reward_history_moves_once_for_each_training_round_of_a_run(store):
    first, second, other = Baseline(1.0, 0.0, 1), Baseline(2.0, 0.5, 2), Baseline(3.0, 0.5, 2)
    store.put_baseline(0, RUN, 0, write_baseline(first))
    store.put_baseline(0, RUN, 1, write_baseline(second))
    assert store.baseline_before(0, RUN, 1) == first
    store.put_baseline(0, RUN, 1, write_baseline(other))
    assert store.baseline_before(0, RUN, 2) == second, "the round was repeated: its history has moved already"
    assert store.baseline_before(0, RUN, 0) == Baseline()
    assert store.baseline_before(0, b"another run" + bytes(5), 2) == Baseline()
    store.forget_baselines(RUN)
    assert store.baseline_before(0, RUN, 2) == Baseline()


def test_after_rounds_without_this_client_a_repeated_round_begins_with_the_newest_before_it(store):
    for number in (0, 1, 5):
        store.put_baseline(0, RUN, number, write_baseline(Baseline(float(number), 0.0, 1)))
    assert store.baseline_before(0, RUN, 5) == Baseline(1.0, 0.0, 1)
    assert store.baseline_before(0, RUN, 1) == Baseline(), "what no round can begin with any more is gone"


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e3)), max_size=6))
def test_a_reward_history_comes_back_from_disk_to_the_last_digit(rewards):
    with tempfile.TemporaryDirectory() as folder:
        store, past = ClientStore(Path(folder) / "state.sqlite"), Baseline()
        for number, (mean, error) in enumerate(rewards):
            past = past.updated(Observation(mean, error), number, 0.7)
        store.put_baseline(7, RUN, len(rewards), write_baseline(past))
        store.close()
        again = ClientStore(Path(folder) / "state.sqlite")
        assert again.baseline_before(7, RUN, len(rewards) + 1) == past
        again.close()


def test_only_its_owner_may_read_the_file(store, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
