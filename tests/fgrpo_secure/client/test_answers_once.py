"""One durable row per identity, session and step: of two answers one is stored, and only what is stored is sent."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from fgrpo_secure.client.session_records import RecordConflict
from fgrpo_secure.client.store import ClientStore
from protocols import envelope, wire
from protocols.errors import FaultyServer
from protocols.server import open_session
from protocols.wire import Step

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

spec = importlib.util.spec_from_file_location("answer_once", HERE / "answer_once.py")
answer_once = importlib.util.module_from_spec(spec)
spec.loader.exec_module(answer_once)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "owners.sqlite"


@pytest.fixture
def stopped(path):
    """stop(step) -> (world, server state at that step): an honest session up to it, all clients in one durable file."""

    def stop(until):
        world, store = answer_once.build(), ClientStore(path)
        state = open_session(world.server, world.plan, world.roster, world.verify)
        while state.step is not until:
            for client in state.outgoing:
                answer = answer_once.driver(world, client, store, "first").handle(
                    state.step, state.outgoing[client], lambda plan, client=client: world.values[client]
                )
                state.receive(client, answer)
            state = state.close()
        store.close()
        return world, state

    return stop


def without_last(request):
    """The same uploads but one: a list that an honest client could be shown as well."""
    uploads = wire.decode(wire.Uploads, request, 1 << 20)
    return wire.encode(msgspec.structs.replace(uploads, entries=uploads.entries[:-1]))


def interrupted(store, method, between):
    """Lets something happen between computing what is stored and storing it."""
    original = getattr(store.sessions, method)

    def later(*arguments):
        between()
        return original(*arguments)

    setattr(store.sessions, method, later)
    return store


@pytest.mark.parametrize("same", [True, False], ids=["the same request", "another request"])
def test_of_two_objects_that_answer_one_step_the_second_sends_nothing(same, stopped, path):
    world, state = stopped(Step.AGREE)
    me = world.ids[0]
    request = state.outgoing[me]
    other = request if same else without_last(request)
    quick, sent = ClientStore(path), []
    slow = interrupted(
        ClientStore(path), "put", lambda: sent.append(answer_once.answer(world, quick, me, "agree", other, "quick"))
    )
    with pytest.raises(RecordConflict):
        answer_once.driver(world, me, slow, "slow").handle(Step.AGREE, request, None)
    session = wire.session_of(world.plan)
    assert [quick.sessions.reply(world.identities[me].public, session, Step.AGREE)[1].hex()] == sent
    slow.close()
    quick.close()


def test_two_plans_for_one_round_get_one_announcement(path):
    """The session's row is what they race for."""
    world = answer_once.build()
    me, one = world.ids[0], world.signed(world.plan)
    two = world.signed(world.change_plan(settings=b"[]"))

    sent, quick = [], ClientStore(path)
    slow = interrupted(
        ClientStore(path), "accept", lambda: sent.append(answer_once.answer(world, quick, me, "announce", two, "quick"))
    )
    with pytest.raises(RecordConflict):
        answer_once.driver(world, me, slow, "slow").handle(Step.ANNOUNCE, one, None)
    assert len(sent) == 1
    assert envelope.unverified(wire.Announcement, bytes.fromhex(sent[0])).client == me
    slow.close()
    quick.close()


def start(path, word, requests, *more):
    """A process that answers `requests` ({client: (step, bytes)}) when the go file appears."""
    asked = path.with_suffix(f".{word}.requests")
    asked.write_text(json.dumps({client: (step, request.hex()) for client, (step, request) in requests.items()}))
    command = [sys.executable, str(HERE / "answer_once.py"), str(path), str(asked), f"{asked}.answers", word, *more]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}), Path(f"{asked}.answers")


def go(path, *words):
    deadline = time.monotonic() + 60
    while not all(Path(f"{path}.{word}.ready").exists() for word in words):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    Path(f"{path}.go").touch()


@pytest.mark.slow
def test_of_two_processes_that_race_for_each_step_one_answers(stopped, path):
    world, state = stopped(Step.AGREE)
    clients = world.ids[:-1]
    lists = {"all": state.outgoing[clients[0]], "fewer": without_last(state.outgoing[clients[0]])}
    racing = [start(path, word, dict.fromkeys(clients, ("agree", request))) for word, request in lists.items()]
    go(path, *lists)
    assert [process.wait(120) for process, _ in racing] == [0, 0]
    all_of_them, fewer = (json.loads(answers.read_text()) for _, answers in racing)
    store, session = ClientStore(path), wire.session_of(world.plan)
    for i in clients:
        stored = store.sessions.reply(world.identities[i].public, session, Step.AGREE)[1].hex()
        got = {all_of_them[str(i)], fewer[str(i)]}
        assert stored in got
        assert got - {stored} <= {"RecordConflict", "FaultyServer"}
        assert len(got) == 2
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("step", [Step.ANNOUNCE, Step.SHARE, Step.MASK, Step.AGREE])
def test_a_process_that_dies_between_storing_and_sending_sends_the_same_bytes_later(step, stopped, path):
    """Its successor draws other randomness, and must not use it."""
    world, state = stopped(step)
    me = world.ids[0]
    request = state.outgoing[me]
    process, answers = start(path, "dead", {me: (step.value, request)}, "die")
    go(path, "dead")
    assert process.wait(120) == 9
    assert not answers.exists()
    store, session = ClientStore(path), wire.session_of(world.plan)
    _, stored = store.sessions.reply(world.identities[me].public, session, step)
    assert answer_once.answer(world, store, me, step.value, request, "alive") == stored.hex()
    state.receive(me, stored)
    garbled = request[:-1] + bytes([request[-1] ^ 1])
    with pytest.raises(FaultyServer):
        answer_once.driver(world, me, store, "alive").handle(step, garbled, None)
    store.close()
