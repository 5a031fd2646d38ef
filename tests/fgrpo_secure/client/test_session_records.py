"""A session's row: it moves forward only, proves what may be refunded, and forgets what a step is done with."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.client.session_records import RecordConflict
from fgrpo_secure.client.store import ClientStore
from protocols import wire
from protocols.drive import AFTER, BEFORE, Status
from protocols.wire import Step

ME, SERVER, RUN = b"1" * 32, b"s" * 32, b"r" * 16
STEPS = list(Step)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite"


@pytest.fixture
def store(path):
    store = ClientStore(path)
    yield store
    store.close()


@pytest.fixture
def reach(store, make_plan):
    """reach(number, step): the session with all steps up to `step` answered; with None just accepted."""

    def to(number, last, **plan):
        made = make_plan(number, **plan)
        session = wire.session_of(made)
        store.sessions.accept(ME, SERVER, made, plan.get("training_round", 0))
        for step in STEPS[: 0 if last is None else STEPS.index(last) + 1]:
            store.sessions.put(ME, session, step, b"d", b"state of " + step.value.encode(), b"reply")
        return session

    return to


def test_an_answer_survives_reopening_and_is_given_once(store, path, reach):
    session = reach(1, Step.MASK)
    other = ClientStore(path).sessions
    assert other.reply(ME, session, Step.MASK) == (b"d", b"reply")
    with pytest.raises(RecordConflict):
        other.put(ME, session, Step.MASK, b"e", b"state", b"another reply")
    assert other.reply(ME, session, Step.MASK) == (b"d", b"reply")


@given(st.lists(st.sampled_from([*STEPS, "close"]), max_size=8))
def test_in_whatever_order_things_are_tried_the_status_moves_forward_and_left_stays(tmp_path_factory, make_plan, tried):
    records = ClientStore(tmp_path_factory.mktemp("records") / "state.sqlite").sessions
    plan = make_plan(1)
    session = wire.session_of(plan)
    records.accept(ME, SERVER, plan)
    status, left, answered = Status.ACCEPTED, False, set()
    for act in tried:
        if act == "close":
            records.close(ME, session)
            status = status if status is Status.SETTLED else Status.CLOSED
        elif act not in answered and status is BEFORE[act]:
            records.put(ME, session, act, b"d", b"s", b"r")
            status, left = AFTER[act], left or act is Step.MASK
            answered.add(act)
        else:
            with pytest.raises(RecordConflict):
                records.put(ME, session, act, b"d", b"s", b"r")
        assert (records.status(ME, session), records.left(ME, session)) == (status, left)


@pytest.mark.parametrize("last", [None, *STEPS])
def test_a_refund_needs_a_row_that_proves_that_nothing_left(store, reach, last):
    session = reach(1, last)
    left = last in (Step.MASK, Step.AGREE, Step.UNMASK)
    assert store.sessions.close(ME, session) == left
    assert store.sessions.left(ME, bytes(32)), "of a session without a row nothing is proven"


def test_a_run_has_one_open_session_and_numbers_that_only_grow(store, make_plan, reach):
    reach(4, Step.SHARE)
    for number in (3, 4):
        with pytest.raises(RecordConflict, match="not newer"):
            store.sessions.accept(ME, SERVER, make_plan(number, adapter=b"b" * 32))
    with pytest.raises(RecordConflict, match="is open"):
        store.sessions.accept(ME, SERVER, make_plan(5))
    other = b"another run     "
    assert store.sessions.last_session(ME, SERVER, other) == -1
    assert store.sessions.last_session(ME, b"another server", RUN) == -1
    store.sessions.accept(ME, SERVER, make_plan(1, run=other))


def test_a_step_replaces_what_the_step_before_it_needed(path, store, reach):
    reach(1, Step.AGREE)
    written = path.read_bytes()
    assert b"state of agree" in written
    assert not any(b"state of " + step.value.encode() in written for step in (Step.ANNOUNCE, Step.SHARE, Step.MASK))


def test_what_is_closed_leaves_no_secret_in_any_file(path, store, reach):
    session = reach(1, Step.SHARE)
    store.sessions.put_history(ME, session, "a secret history")
    assert b"a secret history" in path.read_bytes()
    store.sessions.close(ME, session)
    written = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert b"secret history" not in written
    assert b"state of" not in written
    assert store.sessions.status(ME, session) is Status.CLOSED


def test_without_secure_delete_the_secret_would_still_lie_there(path, store, reach):
    """The control of the test above."""
    store._db.execute("PRAGMA secure_delete=OFF")
    session = reach(1, Step.SHARE)
    store.sessions.put_history(ME, session, "a secret history, long enough for a row of its own" * 40)
    store.sessions.close(ME, session)
    assert b"secret history" in path.read_bytes()


def test_a_record_gives_back_what_it_was_told(store, make_plan):
    plan = make_plan(7)
    store.sessions.accept(ME, SERVER, plan, 3, Fraction(1, 7))
    record = store.sessions.record(ME, wire.session_of(plan))
    assert (record.plan, record.number, record.training_round) == (plan, 7, 3)
    assert (record.fixed_charge, record.left, record.status) == (Fraction(1, 7), False, Status.ACCEPTED)
    assert store.sessions.record(ME, bytes(32)) is None


def test_vectors_are_counted_by_adapter_and_by_training_round(store, make_plan):
    for number, training_round, adapter, left in (
        (1, 0, b"a", True),
        (2, 0, b"a", False),
        (3, 0, b"a", True),
        (4, 1, b"b", True),
    ):
        plan = make_plan(number, adapter=adapter * 32)
        session = wire.session_of(plan)
        store.sessions.accept(ME, SERVER, plan, training_round)
        if left:
            store.sessions.put(ME, session, Step.MASK, b"d", b"s", b"r")
        store.sessions.close(ME, session)
    other = make_plan(5, run=b"o" * 16, adapter=b"a" * 32)  # the same update in two runs' sums would be a difference
    store.sessions.accept(ME, SERVER, other, 0)
    store.sessions.put(ME, wire.session_of(other), Step.MASK, b"d", b"s", b"r")
    store.sessions.close(ME, wire.session_of(other))
    assert [store.sessions.vectors_for(ME, letter * 32) for letter in (b"a", b"b", b"c")] == [3, 1, 0]
    assert store.sessions.repeated(ME, RUN) == 1
    assert [store.sessions.round_left(ME, RUN, number) for number in range(3)] == [True, True, False]


def test_a_history_is_taken_once_and_only_from_a_session_that_settled(store, reach):
    session = reach(1, Step.SHARE)
    store.sessions.put_history(ME, session, "{}")
    assert store.sessions.take_history(ME, session) is None
    for step in (Step.MASK, Step.AGREE, Step.UNMASK):
        store.sessions.put(ME, session, step, b"d", b"s", b"r")
    assert store.sessions.take_history(ME, session) == "{}"
    assert store.sessions.take_history(ME, session) is None
