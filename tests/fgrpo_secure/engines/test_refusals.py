"""What the server refuses, one case each: it is told, counted, and the sender learns nothing of any question."""

import asyncio
import socket
import ssl
import time
from contextlib import closing, suppress
from dataclasses import replace
from urllib.parse import quote

import pytest

from fgrpo_secure.engines.https import application, dialer, listening, signing
from fgrpo_secure.engines.https import question as questions
from fgrpo_secure.engines.https.dialer import Dismissed, NotReached
from fgrpo_secure.engines.https.signing import Asked, Receiver
from protocols.errors import BadSignature
from protocols.roster import Roster, sign_roster
from tests.fgrpo_secure.engines.conftest import CLIENTS, ROSTER, RUN, SERVER, identity

NEXT = "GET", f"/{RUN.hex()}/next", "offset=0"
SECRET = b"only for client 0"


def signed(asked=NEXT, client=0, who=None, time_=None, body=b"", server=SERVER, run=RUN):
    now = int(time.time()) if time_ is None else time_
    return signing.sign(who or CLIENTS[client], client, Receiver(server.public, run), on_the_wire(*asked), now, body)


def on_the_wire(method, path, query, version="1"):
    return Asked(method, signing.PREFIX + path, query, version)


def changed(credentials, **fields):
    return replace(credentials, **fields)


STRANGER = identity(77)
YESTERDAY = -86_400
CASES = {
    "no signature": (lambda: None, 401, "not signed"),
    "another client's signature": (lambda: signed(who=CLIENTS[1]), 401, "not signed"),
    "a stranger's signature": (lambda: signed(who=STRANGER), 401, "not signed"),
    "a name that is not in the roster": (lambda: signed(client=0, who=STRANGER), 401, "not signed"),
    "an id that is not in the roster": (lambda: changed(signed(who=STRANGER), client=99), 401, "not signed"),
    "a signature for another path": (lambda: signed(("GET", "/blobs/00", "offset=0")), 401, "not signed"),
    "a signature for another query": (lambda: signed((*NEXT[:2], "offset=1")), 401, "not signed"),
    "a signature for another method": (lambda: signed(("PUT", *NEXT[1:])), 401, "not signed"),
    "a signature for another server": (lambda: signed(server=identity(55)), 401, "not signed"),
    "a signature of another length": (lambda: changed(signed(), length=5), 401, "not signed"),
    "a later time than the signed one": (lambda: changed(signed(), time=int(time.time()) + 5), 401, "not signed"),
    "another client's name under its own key": (lambda: changed(signed(), client=1), 401, "not signed"),
    "another key beside the signature": (lambda: changed(signed(), public=CLIENTS[1].public), 401, "not signed"),
    "a signature for another run": (lambda: signed(run=bytes(16)), 401, "not signed"),
    "one of yesterday": (lambda: signed(time_=int(time.time()) + YESTERDAY), 425, "time is not the server's"),
    "one of eleven minutes ago": (lambda: signed(time_=int(time.time()) - 660), 425, "time is not the server's"),
    "one of tomorrow": (lambda: signed(time_=int(time.time()) - YESTERDAY), 425, "time is not the server's"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_request_that_is_not_a_clients_own_of_these_minutes_is_refused(wire, case):
    make, status, sentence = CASES[case]
    answers, asking = wire.ask("share", {0: SECRET}, 0.5)
    reply = wire.send(*NEXT, credentials=make())
    asking.join()
    assert (reply.status_code, answers) == (status, [])
    assert sentence in reply.text
    assert SECRET not in reply.content
    assert wire.counts.refused == 1
    assert any(str(status) in line for line in wire.lines)


def test_a_client_of_its_own_is_answered_so_that_the_refusals_above_prove_something(wire):
    wire.ask("share", {0: SECRET}, 2)
    assert SECRET in wire.send(*NEXT, credentials=signed()).content


VERSIONS = {
    "2": "this client speaks version 2 of the transport, the server 1: the server must be upgraded",
    "0": "this client speaks version 0 of the transport, the server 1: the client must be upgraded",
    "x" * 3000: "the request names no version",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_another_version_is_told_who_must_upgrade(wire, version):
    credentials = signed((*NEXT, version))
    reply = wire.send(*NEXT, credentials=credentials, headers={signing.VERSION_HEADER: version})
    assert reply.status_code == 426
    assert VERSIONS[version] in reply.text


def test_a_client_of_a_newer_version_gives_up_with_the_servers_sentence(wire, monkeypatch):
    with closing(wire.dialer()) as line:
        monkeypatch.setattr(dialer, "VERSION", 2)
        with pytest.raises(Dismissed, match="version 2 of the transport, the server 1: the server must be upgraded"):
            line.next()


# ------------------------------------------------------------------------------------------------------------ transport


def test_plain_text_gets_no_answer(wire):
    with socket.create_connection(("127.0.0.1", wire.port), timeout=5) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        with suppress(ConnectionResetError):
            answer = plain.recv(100)
    assert b"HTTP" not in answer


def test_tls_1_2_is_refused_by_the_server_and_by_the_client(wire):
    old = wire.tls()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", wire.port)) as raw, pytest.raises(ssl.SSLError):
        old.wrap_socket(raw, server_hostname="127.0.0.1")
    with closing(wire.dialer()) as line:
        context = line._http._transport._pool._ssl_context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_a_connection_that_says_nothing_or_says_it_slowly_is_closed(wire, monkeypatch):
    monkeypatch.setattr(listening, "PATIENCE", 0.5)
    raw = socket.create_connection(("127.0.0.1", wire.port))
    with wire.tls().wrap_socket(raw, server_hostname="127.0.0.1") as slow:
        began = time.monotonic()
        with suppress(OSError):
            for _ in range(40):
                slow.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - began < 3
    with socket.create_connection(("127.0.0.1", wire.port)) as mute:
        mute.settimeout(5)
        assert mute.recv(1) == b""


def test_more_connections_than_there_is_room_for_wait_and_clients_get_through(wire, monkeypatch):
    """The server holds 512 connections, for `PATIENCE` at most while they say nothing."""
    monkeypatch.setattr(listening, "PATIENCE", 0.5)
    crowd = []
    try:
        for _ in range(900):
            raw = socket.socket()
            raw.setblocking(False)
            raw.connect_ex(("127.0.0.1", wire.port))
            crowd.append(raw)
        wire.ask("share", {0: SECRET}, 20)
        assert wire.answer(0, b"x").payload == SECRET
    finally:
        for raw in crowd:
            raw.close()


# --------------------------------------------------------------------------------------------------------------- bodies


def asked_of(wire, client=0):
    _, asking = wire.ask("mask", {client: SECRET}, 10)
    with closing(wire.dialer(client)) as line:
        return line.next().id, asking


def piece(wire, id, body, size, offset=0, send=None, headers=None, client=0):
    query = f"offset={offset}&size={size}"
    asked = "PUT", f"/{RUN.hex()}/answers/{id.hex()}", query
    credentials = signed(asked, client, body=body)
    return wire.send(
        *asked, body=body, credentials=credentials, headers=headers, content=body if send is None else send
    )


def endless():
    while True:
        yield b"0" * 65_536


def test_bodies_without_end_that_lie_or_that_are_packed_leave_nothing(wire, monkeypatch):
    monkeypatch.setattr(application, "PIECE_SECONDS", 1.0)
    id, _ = asked_of(wire)
    assert piece(wire, id, b"abc", 10, send=b"abd").status_code == 400  # another body than the signed one
    assert piece(wire, id, b"abc", 10, send=b"abcd").status_code == 411
    packed = piece(wire, id, b"abc", 10, headers={"content-encoding": "gzip"})
    assert (packed.status_code, "no content encoding" in packed.text) == (415, True)
    with suppress(Exception):  # the server hangs up while the body is still on its way
        assert piece(wire, id, b"abc", 10, send=endless()).status_code == 411
    big = b"0" * (signing.PIECE + 1)
    with suppress(Exception):
        assert piece(wire, id, big, len(big)).status_code == 413
    assert wire.engine._desk.spool.kept(id) == 0
    assert piece(wire, id, b"abc", 3).text == "3"


def test_a_piece_counts_once_wherever_it_begins_and_however_often_it_comes(wire):
    id, asking = asked_of(wire)
    assert piece(wire, id, b"\x01ab", 6).text == "3"
    assert piece(wire, id, b"\x01ab", 6).text == "3"  # a replay inside the window
    assert piece(wire, id, b"xyz", 6, offset=4).text == "3"  # a gap
    assert piece(wire, id, b"cdef", 6, offset=3).text == "3"  # longer than it said
    assert piece(wire, id, b"cde", 6, offset=3).text == "6"
    assert piece(wire, id, b"cde", 6, offset=3).status_code in (200, 404)  # over, and nothing changes
    asking.join(5)
    assert wire.engine._desk.spool.whole(id).read_bytes() == b"\x01abcde"


def test_an_answer_to_another_clients_question_or_to_none_is_refused(wire):
    id, _ = asked_of(wire, client=0)
    assert piece(wire, id, b"\x01x", 2, client=1).status_code == 404
    assert piece(wire, bytes(32), b"\x01x", 2).status_code == 404


# ---------------------------------------------------------------------------------------------------- a lying server


def test_a_client_takes_no_question_and_no_time_from_another_key_than_the_pinned_one(wire, quick):
    wire.ask("share", {0: SECRET}, 5)
    with closing(wire.dialer(server=identity(55))) as line, pytest.raises((NotReached, Dismissed)):
        line.next()
    question = questions.Question(1, RUN, questions.Kind.STEP, 7, "share", 0, None, None, 0, (), SECRET)
    with pytest.raises(BadSignature):
        signing.unseal(SERVER.public, signing.seal(identity(55), question.encode()))


def test_a_client_takes_no_question_of_another_run_or_to_another_client(wire):
    with closing(wire.dialer()) as line:
        for run, client in ((bytes(16), 0), (RUN, 1)):
            question = questions.Question(1, run, questions.Kind.STEP, 7, "share", client, None, None, 0, (), SECRET)
            with pytest.raises(NotReached, match="to somebody else"):
                line._opened(signing.seal(SERVER, question.encode()))


def test_a_clock_that_is_wrong_by_a_day_is_set_by_the_server_alone(wire, monkeypatch):
    wire.ask("share", {0: SECRET}, 5)
    with closing(wire.dialer()) as line:
        line._ahead = float(YESTERDAY)
        assert line.next().payload == SECRET
        assert abs(line._ahead) < 5


SAID = signing.Reply(404, "name", "9", b"not asked")
CHANGED = {
    "status": signing.Reply(401, "name", "9", b"not asked"),
    "name": signing.Reply(404, "other", "9", b"not asked"),
    "size": signing.Reply(404, "name", "99", b"not asked"),
    "body": signing.Reply(404, "name", "9", b"is asked"),
}


def test_a_reply_is_the_servers_as_it_was_said_and_to_one_request():
    to, own = Receiver(SERVER.public, RUN), signed()
    one = signing.request_payload(own, to, on_the_wire(*NEXT))
    header = signing.signed_reply(SERVER, 5.0, one, SAID)
    assert signing.check_reply(header, SERVER.public, one, SAID) == 5.0
    others = [
        signing.request_payload(changed(own, **{field: other}), to, on_the_wire(*NEXT))
        for field, other in {"client": 1, "time": 5, "digest": bytes(32), "length": 1, "public": bytes(32)}.items()
    ]
    others += [signing.request_payload(own, to, on_the_wire(*NEXT)._replace(**{field: "x"})) for field in Asked._fields]
    others += [
        signing.request_payload(own, receiver, on_the_wire(*NEXT))
        for receiver in (Receiver(SERVER.public, bytes(16)), Receiver(identity(55).public, RUN))
    ]
    for request, reply in (*((other, SAID) for other in others), *((one, reply) for reply in CHANGED.values())):
        with pytest.raises(BadSignature):
            signing.check_reply(header, SERVER.public, request, reply)
    with pytest.raises(BadSignature):
        signing.check_reply(header.replace("5000", "6000"), SERVER.public, one, SAID)


def test_a_roster_of_another_authority_lets_nobody_in(wire):
    other = identity(88)
    entries = (*ROSTER.members,)
    with pytest.raises(BadSignature):
        wire.engine.invite(8, b"", sign_roster(other, Roster(1, other.public, entries)))
    assert asyncio.run(wire.engine._desk.key(0)) == CLIENTS[0].public


def bare(wire, sent):
    raw = socket.create_connection(("127.0.0.1", wire.port), timeout=10)
    with wire.tls().wrap_socket(raw, server_hostname="127.0.0.1") as line:
        line.sendall(sent)
        with suppress(OSError):
            return line.recv(4096)
    return b""


def raw_request(path, query, credentials, version=b"1", host=b"x"):
    head = f"GET {path}?{query} HTTP/1.1\r\nauthorization: {credentials.write()}\r\n".encode()
    return head + b"host: " + host + b"\r\nx-fgrpo-version: " + version + b"\r\n\r\n"


def test_the_host_that_a_request_names_changes_nothing_of_what_was_signed(wire):
    """Of a request for one path nobody makes one for another by naming a host that ends in a path."""
    wire.ask("share", {0: SECRET}, 5)
    path = signing.PREFIX + NEXT[1]
    blob = signed(("GET", "/blobs/00", "offset=0"))
    forged = raw_request(path, "offset=0", blob, host=b"x/v1/blobs/00?offset=0#")
    assert bare(wire, forged).startswith(b"HTTP/1.1 401")
    honest = raw_request(path, "offset=0", signed(), host=b"x/v1/blobs/00?offset=0#")
    assert bare(wire, honest).startswith(b"HTTP/1.1 200")


DIGITS = ["\u00b2".encode("latin-1"), b"\xb9\xb2", "\u0661".encode(), b"9" * 5000, b"1.0", b""]


@pytest.mark.parametrize("version", DIGITS, ids=[repr(digits[:8]) for digits in DIGITS])
def test_digits_that_are_none_are_refused_in_one_sentence(wire, version):
    credentials = signed((*NEXT, version.decode("latin-1")))
    path = signing.PREFIX + NEXT[1]
    assert bare(wire, raw_request(path, "offset=0", credentials, version)).startswith(b"HTTP/1.1 426")
    query = f"offset={quote(version)}"
    credentials = signed((*NEXT[:2], query))
    assert bare(wire, raw_request(path, query, credentials)).startswith(b"HTTP/1.1 400") or not version


NAMES = ["\U00010400" * 64, "\u00e9" * 64, "..%2f" * 16, "A" * 64, "0" * 63]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name[:4]) for name in NAMES])
def test_names_that_are_no_digests_name_no_file(wire, name):
    path = f"/blobs/{quote(name, safe='%')}"
    credentials = signed(("GET", path, "offset=0"))
    assert bare(wire, raw_request(signing.PREFIX + path, "offset=0", credentials)).startswith(b"HTTP/1.1 404")


def test_what_anybody_can_make_the_server_say_is_one_line_in_its_own_log(wire, monkeypatch, capfd):
    for _ in range(10):
        bare(wire, b"garbage\r\n\r\n")
    assert wire.lines == ["network: Invalid HTTP request received."]
    monkeypatch.setattr(wire.engine._desk, "wait", lambda *_: 1 / 0)
    for _ in range(3):
        assert bare(wire, raw_request(signing.PREFIX + NEXT[1], "offset=0", signed())).startswith(b"HTTP/1.1 500")
    assert len([line for line in wire.lines if "ZeroDivisionError" in line]) == 1
    assert capfd.readouterr().err == ""
