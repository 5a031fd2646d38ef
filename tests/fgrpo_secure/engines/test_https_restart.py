"""What survives when either side dies: questions have the same ids, answers are on disk, steps end as they ended."""

import asyncio
import hashlib
import threading
from contextlib import closing
from pathlib import Path

import pytest

from fgrpo_secure.engines.https import question as questions
from fgrpo_secure.engines.https.dialer import Gone, NotReached
from fgrpo_secure.engines.https.question import Answered, Kind, Left, Said, Silent
from fgrpo_secure.ledger.witnessed import Witnessed
from protocols.roster import Roster, hand_over, sign_roster
from tests.fgrpo_secure.engines.conftest import AUTHORITY, CLIENTS, ROSTER, SIGNED, identity


def signs(said):
    """A line that holds, in place of what the ledger says of it."""
    return said.line in ("a line", "of 0", "of 1")


OUT = {0: b"to nought", 1: b"to one", 2: b"to two"}


def test_a_server_that_dies_within_a_step_finds_the_answers_that_it_was_given(wire):
    _, first = wire.ask("mask", OUT, 1.0)
    for client in (0, 1):
        wire.answer(client, f"of {client}".encode())
    wire.engine._desk.spool.close_step = lambda *_: None  # it dies before it could write that the step is over
    first.join()
    wire.restart()
    wire.engine.invite(7, b"a model", SIGNED)
    answers, again = wire.ask("mask", OUT, 5.0)
    wire.answer(2, b"of 2")
    again.join()
    assert sorted(answers) == [(0, b"of 0"), (1, b"of 1"), (2, b"of 2")]


def test_a_step_that_had_ended_ends_the_same_way_after_a_restart_whoever_answered_since(wire):
    answers, step = wire.ask("agree", OUT, 0.7)
    wire.answer(0, b"of 0")
    step.join()
    assert answers == [(0, b"of 0")]
    spool, late = wire.engine._desk.spool, wire.engine._question(Kind.STEP, 1, "agree", (), OUT[1])
    spool.part(late.id).write_bytes(b"of 1, too late\x01")
    spool.finish(late.id)
    wire.restart()
    wire.engine.invite(7, b"a model", SIGNED)
    assert list(wire.engine.exchange("agree", OUT, 5.0)) == [(0, b"of 0")]
    assert wire.engine._desk.question(1) is None, "nobody was asked again"


def test_another_question_is_never_given_the_answer_of_one_before(wire):
    _, step = wire.ask("mask", OUT, 0.7)
    wire.answer(0, b"of 0")
    step.join()
    wire.restart()
    wire.engine.invite(7, b"a model", SIGNED)
    assert list(wire.engine.exchange("mask-other", {0: b"something else"}, 0.2)) == []


def test_a_settled_session_leaves_nothing_on_the_servers_disk(wire):
    _, step = wire.ask("mask", OUT, 0.7)
    wire.answer(0, b"of 0")
    step.join()
    assert any((wire.folder / "spool").rglob("*"))
    wire.engine.witness(b"s" * 32, {}, 0.1, signs)
    assert not [path for path in (wire.folder / "spool").rglob("*") if path.is_file()]
    wire.engine.invite(8, b"the next model", SIGNED)
    left = [path for path in wire.folder.rglob("*") if path.is_file()]
    assert sorted(path.parent.name for path in left) == ["blobs", "blobs"]


def test_an_upload_that_is_cut_goes_on_where_it_was(wire):
    payload = bytes(range(256)) * 40_000  # three pieces
    wire.engine.invite(
        8, bytes(len(payload) // 2), SIGNED
    )  # a vector has at most so many bytes for each of the model's
    _, step = wire.ask("mask", {0: b"up"}, 20)
    with closing(wire.dialer(0)) as line:
        question = line.next()
        whole = questions.write_answer(Answered(payload))
        original, sent = line._send, []

        def cut(credentials, asked, body):
            sent.append(len(body))
            if len(sent) == 2:
                raise OSError("the line was cut")
            return original(credentials, asked, body)

        line._send = cut
        with pytest.raises(OSError, match="cut"):
            line.put(question.id, whole)
        kept = wire.engine._desk.spool.kept(question.id)
        line.put(question.id, whole, again=True)
    step.join(10)
    assert 0 < kept < len(whole)
    assert sum(sent[2:]) == len(whole) - kept, "what was there was sent again"
    assert wire.engine._read(question.id) == Answered(payload)


def test_answers_after_the_deadline_and_to_questions_that_are_over_are_not_taken(wire):
    answers, step = wire.ask("share", {0: b"q"}, 0.5)
    with closing(wire.dialer(0)) as line:
        question = line.next()
        step.join()
        with pytest.raises(Gone):
            line.put(question.id, questions.write_answer(Answered(b"late")))
    assert answers == []


def test_silence_at_recovery_counts_as_a_vector_that_left(wire):
    wire.engine._step_seconds = 2
    recovered = []
    thread = threading.Thread(target=lambda: recovered.append(wire.engine.recover([b"s" * 32])))
    thread.start()
    for client, answer in ((0, Left(False)), (1, Left(True)), (2, Silent())):
        with closing(wire.dialer(client)) as line:
            question = line.next()
            line.put(question.id, questions.write_answer(answer))
    thread.join()
    assert recovered == [4], "one said no; one said yes, one said nothing, and two were not reached"


def test_every_answer_has_one_form_and_nothing_else_is_one():
    for answer in (Answered(b"x"), Answered(b""), Said("no"), Silent(), Left(True), Witnessed(3, "line", 7)):
        written = questions.write_answer(answer)
        assert questions.read_answer(written) == answer
    for wrong in (b"", b"\x09", b"x\x03", b"\x02\x04", b"\xff\x02", b"\x00\x05", b"x" * 5000 + b"\x02"):
        with pytest.raises(ValueError, match=r".*"):
            questions.read_answer(wrong)


def test_refusals_reach_the_server_as_refusals_and_silence_as_nothing(wire):
    answers, step = wire.ask("announce", OUT, 5)
    for client, answer in ((0, Said("rounds.min_cohort: too few")), (1, Silent()), (2, Answered(b"here"))):
        with closing(wire.dialer(client)) as line:
            question = line.next()
            line.put(question.id, questions.write_answer(answer))
    step.join()
    assert answers == [(2, b"here")]
    assert wire.engine.refusals == {0: "rounds.min_cohort: too few"}


def test_a_model_comes_in_pieces_and_another_one_is_not_taken(wire, tmp_path):
    model = bytes(range(256)) * 30_000
    wire.engine.invite(9, model, SIGNED)
    digest = wire.engine.invited.adapter
    with closing(wire.dialer(0)) as line:
        with pytest.raises(NotReached, match="more than"):
            line.fetch(digest, tmp_path / "model", len(model) - 1)
        line.fetch(digest, tmp_path / "model", len(model))
        assert (tmp_path / "model").read_bytes() == model
        with pytest.raises(Gone):
            line.fetch(bytes(32), tmp_path / "other", 1 << 30)


def test_a_roster_of_a_new_authority_that_the_first_handed_over_to_lets_its_clients_in(wire):
    later = identity(120)
    wire.roster = Roster(2, later.public, ROSTER.members[:4], revoked=(4,))
    signed = sign_roster(later, wire.roster, [hand_over(AUTHORITY, later.public)])
    wire.engine.invite(8, b"a model", signed)
    wire.restart()
    wire.engine.invite(9, b"a model", signed)
    assert asyncio.run(wire.engine._desk.key(3)) == CLIENTS[3].public
    assert asyncio.run(wire.engine._desk.key(4)) is None


def test_a_client_signs_the_ledger_for_nobody_but_itself(wire):
    wire.engine._step_seconds = 2
    said = []
    thread = threading.Thread(target=lambda: said.extend(wire.engine.witness(b"s" * 32, {0: b"e", 1: b"e"}, 5, signs)))
    thread.start()
    for client in (0, 1):
        with closing(wire.dialer(client)) as line:
            question = line.next()
            line.put(question.id, questions.write_answer(Witnessed(0, "a line", 3)))
    thread.join()
    assert said == [Witnessed(0, "a line", 3)]


def test_a_server_that_dies_before_the_note_is_kept_finds_the_signatures_that_came(wire):
    """At a run's end the same is asked again under the same id, by a server that has no signature yet."""
    exhibits, said = {0: b"the end", 1: b"the end"}, []
    line = wire.dialer(0)
    asking = threading.Thread(target=lambda: said.append(wire.engine.witness(b"", exhibits, 2, signs)))
    asking.start()
    first = line.next()
    line.put(first.id, questions.write_answer(Witnessed(0, "of 0", 3)))
    asking.join()
    assert said == [[Witnessed(0, "of 0", 3)]]
    wire.engine._over = False  # it dies: nobody hears farewell
    wire.restart()
    wire.engine.invite(7, b"a model", SIGNED)
    again = threading.Thread(target=lambda: said.append(wire.engine.witness(b"", exhibits, 5, signs)))
    again.start()
    with closing(wire.dialer(1)) as other:
        question = other.next()
        other.put(question.id, questions.write_answer(Witnessed(1, "of 1", 3)))
    again.join()
    assert said[1] == [Witnessed(0, "of 0", 3), Witnessed(1, "of 1", 3)]
    wire.engine._over = False
    line.close()


def test_what_the_server_lost_is_asked_again_of_a_client_that_has_answered_it(wire):
    with closing(wire.dialer(0)) as line:
        _, step = wire.ask("mask", {0: b"q"}, 5)
        first = line.next()
        line.put(first.id, questions.write_answer(Answered(b"a")))
        step.join()
        wire.engine._desk.spool.discard()
        answers, step = wire.ask("mask", {0: b"q"}, 5)
        second = line.next()
        assert second.id == first.id
        line.put(second.id, questions.write_answer(Answered(b"a")))
        step.join()
    assert answers == [(0, b"a")]


def test_what_is_discarded_while_its_last_piece_comes_ends_neither_side(wire, monkeypatch):
    wire.ask("mask", {0: b"q"}, 5)
    spool = wire.engine._desk.spool
    finish = spool.finish

    def late(id):
        spool.discard()
        return finish(id)

    monkeypatch.setattr(spool, "finish", late)
    with closing(wire.dialer(0)) as line:
        question = line.next()
        with pytest.raises(Gone):
            line.put(question.id, questions.write_answer(Answered(b"a")))
        monkeypatch.undo()
        line.put(question.id, questions.write_answer(Answered(b"a")))
    assert spool.whole(question.id) is not None


MOST = {Kind.RECOVER: 64 << 10, Kind.OVER: 64 << 10, Kind.WITNESS: 1 << 20, Kind.STEP: (64 << 10) + 5 * (8 << 10) + 16}


@pytest.mark.parametrize("kind", Kind)
def test_an_answer_has_the_bytes_that_its_kind_of_question_allows_and_no_more(wire, kind):
    """A model of two coordinates, five clients: nobody fills the server's disk with what no step could use."""
    wire.engine.invite(8, bytes(8), SIGNED)
    question = wire.engine._question(kind, 0, "mask", (), b"q")
    threading.Thread(target=lambda: list(wire.engine._answers({0: question}, 3)), daemon=True).start()
    with closing(wire.dialer(0)) as line:
        asked = line.next()
        with pytest.raises(NotReached, match=f"size is a number from 0 to {MOST[kind]}"):
            line.put(asked.id, bytes(MOST[kind] + 1))
        assert wire.engine._desk.spool.kept(asked.id) == 0
        line.put(asked.id, bytes(MOST[kind] - 1) + b"\x03")


UNSIGNED = {
    "not signed": Witnessed(0, None, 0),
    "another client's line": Witnessed(1, "a line", 3),
    "a line that does not hold": Witnessed(0, "a line of an earlier roster", 3),
    "nothing said": Silent(),
    "another kind of answer": Answered(b"x"),
}


@pytest.mark.parametrize("first", UNSIGNED.values(), ids=UNSIGNED)
def test_a_restarted_server_asks_again_whoever_has_not_signed_the_end(wire, first):
    said = []
    for answer in (first, Witnessed(0, "a line", 3)):
        asking = threading.Thread(target=lambda: said.append(wire.engine.witness(b"", {0: b"the end"}, 5, signs)))
        asking.start()
        with closing(wire.dialer(0)) as line:
            line.put(line.next().id, questions.write_answer(answer))
        asking.join()
        wire.engine._over = False  # it dies: nobody hears farewell
        wire.restart()
        wire.engine.invite(7, b"a model", SIGNED)
    assert said[1] == [Witnessed(0, "a line", 3)]


@pytest.mark.parametrize("bytes_", [b"", b"\x09", b"x\x03", bytes(50)])
def test_a_stored_answer_that_a_disk_has_spoiled_is_asked_again(wire, bytes_):
    _, first = wire.ask("mask", OUT, 1.0)
    question = wire.answer(0, b"of 0")
    wire.answer(1, b"of 1")
    wire.engine._desk.spool.close_step = lambda *_: None  # it dies before it could write that the step is over
    first.join()
    wire.engine._desk.spool.whole(question.id).write_bytes(bytes_)
    wire.restart()
    wire.engine.invite(7, b"a model", SIGNED)
    answers, again = wire.ask("mask", OUT, 5.0)
    for client in (0, 2):
        wire.answer(client, b"of %d" % client)
    again.join()
    assert sorted(answers) == [(0, b"of 0"), (1, b"of 1"), (2, b"of 2")]


def own_memory():
    """Bytes of this process that no file holds: the system cannot take them back."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


def test_an_upload_is_looked_at_from_end_to_end_without_being_held(tmp_path):
    size = 64 << 20
    with (path := tmp_path / "answer").open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(b"\x01")
    before = own_memory()
    mapped = questions.read_file(path, mapped=True).payload
    assert hashlib.sha256(mapped).hexdigest() == hashlib.sha256(bytes(size)).hexdigest()
    assert (len(mapped), mapped[-1:], own_memory() - before < size // 4) == (size, b"\0", True)
    held = questions.read_file(path, mapped=False).payload
    assert (held == bytes(size), own_memory() - before > size // 2) == (True, True)
