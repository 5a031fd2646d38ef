"""Who gets one of the server's connections: a client always, strangers while nobody else needs the room."""

import socket
import time
from contextlib import closing, suppress

import pytest

from fgrpo_secure.engines.https import engine, listening, signing
from fgrpo_secure.engines.https.desk import Asked
from fgrpo_secure.engines.https.question import Kind
from tests.fgrpo_secure.engines.conftest import CLIENTS, RUN, SERVER, SIGNED, Wire
from tests.fgrpo_secure.engines.test_refusals import SECRET, signed

ROOM = 2 + listening.EACH * len(CLIENTS)


@pytest.fixture
def narrow(tmp_path, pem, monkeypatch):
    """A server with little room, which closes nobody for being slow."""
    monkeypatch.setattr(engine, "STRANGERS", 2)
    monkeypatch.setattr(listening, "PATIENCE", 120.0)
    made = Wire(tmp_path / "server", pem)
    made.engine.invite(7, b"a model", SIGNED)
    yield made
    made.engine.close()


def connected(wire, secure=True):
    raw = socket.create_connection(("127.0.0.1", wire.port), timeout=20)
    return wire.tls().wrap_socket(raw, server_hostname="127.0.0.1") if secure else raw


def request(path, *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: x", "connection: keep-alive", *headers, "", ""]).encode()


def is_open_after(line, sent):
    """Whether the other side keeps the connection after its reply to `sent`."""
    line.sendall(sent)
    assert line.recv(65_536).startswith(b"HTTP/1.1")
    line.settimeout(1.0)
    try:
        while line.recv(65_536):
            continue
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


STRANGE = {
    "healthz": request("/healthz"),
    "no signature": request("/v1/x", "x-fgrpo-version: 1"),
    "another method": request("/healthz").replace(b"GET", b"POST"),
    "another version": request("/v1/x", "x-fgrpo-version: 2"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_stranger_gets_one_reply_and_no_connection_that_stays(wire, kind):
    with connected(wire) as line:
        assert not is_open_after(line, STRANGE[kind])


def hand_out(wire, client):
    """What a client is asked, without anybody who waits for the answer."""
    question = wire.engine._question(Kind.STEP, client, "share", (), SECRET)
    wire.engine._desk.ask({client: Asked(question.id, 100, signing.seal(SERVER, question.encode()))})


def test_a_clients_connection_stays(wire):
    hand_out(wire, 0)
    path = f"/v1/{RUN.hex()}/next?offset=0"
    with connected(wire) as line:
        own = signed(("GET", f"/{RUN.hex()}/next", "offset=0")).write()
        assert is_open_after(line, request(path, "x-fgrpo-version: 1", f"authorization: {own}"))


@pytest.mark.parametrize("secure", [True, False])
def test_strangers_that_hold_every_connection_make_room_for_clients(narrow, secure):
    crowd = []
    try:
        for _ in range(ROOM if secure else 3 * ROOM):
            with suppress(OSError):
                crowd.append(connected(narrow, secure))
        narrow.ask("share", {0: SECRET}, 60)
        began = time.monotonic()
        assert narrow.answer(0, b"x").payload == SECRET
        assert time.monotonic() - began < 30, "it waited for strangers to be timed out"
    finally:
        for line in crowd:
            line.close()


def settles(wire, count):
    """Whether the server comes to hold so many connections."""
    for _ in range(50):
        time.sleep(0.1)
        if wire.engine._listening.connections() == count:
            return True
    return False


def test_one_client_that_opens_connection_after_connection_keeps_a_few(narrow):
    hand_out(narrow, 0)
    hand_out(narrow, 1)
    lines = [narrow.dialer(0) for _ in range(2 * ROOM)]
    try:
        assert all(line.next().payload == SECRET for line in lines)
        assert settles(narrow, listening.EACH)
        with closing(narrow.dialer(1)) as other:
            assert other.next().payload == SECRET
    finally:
        for line in lines:
            line.close()


REPEATED = {"one of yesterday": 86_400, "one of now": 0}


@pytest.mark.parametrize("age", REPEATED.values(), ids=REPEATED)
def test_whoever_repeats_a_clients_captured_request_cuts_none_of_its_connections(narrow, age):
    hand_out(narrow, 0)
    captured = signed(time_=int(time.time()) - age).write()
    held = []
    with closing(narrow.dialer(0)) as line:
        assert line.next().payload == SECRET
        connection = line._line.getsockname()
        try:
            for _ in range(2 * listening.EACH):
                held.append(connected(narrow))
                path = f"/v1/{RUN.hex()}/next?offset=0"
                held[-1].sendall(request(path, "x-fgrpo-version: 1", f"authorization: {captured}"))
                assert held[-1].recv(65_536).startswith(b"HTTP/1.1")
                assert line.next().payload == SECRET
            assert line._line.getsockname() == connection, "it had to connect again"
        finally:
            for each in held:
                each.close()
