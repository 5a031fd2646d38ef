"""Somebody between client and server, who reads and answers all, without the server's key: he can make clients wait.

A proxy that inspects TLS is such a one, so is whoever holds the address. Nothing that he says ends or changes a daemon.
"""

import re
import socket
import ssl
import threading
from contextlib import closing, suppress
from functools import partial
from itertools import chain, product

import pytest

from fgrpo_secure.engines.https import client_loop, dialer, signing
from fgrpo_secure.engines.https import question as questions
from fgrpo_secure.engines.https.client_loop import Serving
from fgrpo_secure.engines.https.dialer import Dialer, Dismissed, NotReached, Place, _Reply, trusting
from fgrpo_secure.engines.https.question import Answered
from fgrpo_secure.engines.https.signing import Asked, Receiver
from fgrpo_secure.errors import UnusableInput
from tests.fgrpo_secure.engines.conftest import CLIENTS, RUN, SERVER, identity

STATUSES = (200, 204, 206, 301, 400, 401, 404, 409, 411, 426, 500, 503, 999)
BODIES = (b"", b"0", b"1", "\u00b2".encode(), b"9" * 5000, b"\xff" * 500, b"-1", b" 1", bytes(200))
BLOB = Asked("GET", "/v1/blobs/00", "offset=0")
SIZES = ("", "0", "1", "\u00b2", "9" * 5000, "-5")


def unsigned():
    for status, body, size in product(STATUSES, BODIES, SIZES):
        yield status, "", size, body, ""


class Unused:
    running = False

    def ask(self, _):
        raise AssertionError("what is not signed reached the owner's process")


def served(wire, line, tmp_path):
    folder = tmp_path / "daemon"
    folder.mkdir(exist_ok=True)
    return Serving(line, Unused(), folder, lambda _: None, 1 << 20)


def test_nothing_that_is_not_signed_ends_a_daemon_or_changes_it(wire, tmp_path, monkeypatch):
    """The same to a poll, to an answer, to a model that is fetched; and the signature of another reply with it."""
    wire.ask("share", {0: b"q"}, 30)
    with closing(wire.dialer()) as line:
        serving, honest = served(wire, line, tmp_path), line._send
        question = line.next()
        genuine = honest(signed_now(), BLOB, b"").signed
        assert genuine, "the server signs its refusals"
        before = line._ahead
        for said in unsigned():
            for signature in ("", genuine):
                reply = _Reply(*said[:4], signature)
                monkeypatch.setattr(line, "_send", lambda *_, reply=reply: reply)
                assert serving._turn().startswith("the server is not reached"), reply
                with pytest.raises(NotReached):
                    line.put(question.id, b"answer\x01")
                with pytest.raises(NotReached):
                    line.fetch(bytes(32), tmp_path / "model", 1 << 20)
        monkeypatch.setattr(line, "_send", honest)
        assert (line._ahead, serving.made, list((tmp_path / "daemon").iterdir())) == (before, None, [])
        line.put(question.id, questions.write_answer(Answered(b"a")))


def signed_now(client=0):
    now = int(client_loop.entropy.unix_time())
    return signing.sign(CLIENTS[client], client, Receiver(SERVER.public, RUN), BLOB, now, b"")


def test_a_client_that_the_server_does_not_know_is_dismissed_by_the_servers_signature(wire):
    """Positive control of the test above: signed, the same words end a daemon."""
    with closing(wire.dialer(who=identity(77))) as line, pytest.raises(Dismissed, match="refuses this client"):
        line.next()


@pytest.mark.parametrize("kept", ["0", "3", "99", "\u00b2", "9" * 5000, ""])
def test_a_server_that_lies_about_what_it_kept_makes_no_client_send_without_end(wire, monkeypatch, kept):
    sent = []

    def lying(method, path, query, body=b""):
        sent.append(query)
        return _Reply(200, "", "", kept.encode(), "")

    with closing(wire.dialer()) as line:
        monkeypatch.setattr(line, "_ask", lying)
        with pytest.raises(NotReached):
            line.put(bytes(32), b"answer\x01", again=True)
    assert len(sent) <= 2


@pytest.mark.parametrize(
    ("names", "size", "body"), [(["a", "b"], "9", bytes(4 << 20)), (["a"], "9", b"x"), (["a"], "9", b"")]
)
def test_a_question_that_never_ends_or_changes_on_the_way_is_given_up(wire, monkeypatch, names, size, body):
    sent = []

    def lying(*_):
        sent.append(1)
        assert len(sent) < 50
        return _Reply(200, names[len(sent) % len(names)], str(9 << 20), body, "")

    with closing(wire.dialer()) as line:
        monkeypatch.setattr(line, "_ask", lying)
        with pytest.raises(NotReached):
            line.next()


def test_every_failure_waits_longer_than_the_one_before_whatever_it_is(wire, tmp_path, monkeypatch):
    """Polls that are sent away at once, answers that are not kept, a process that ends: one back-off for all."""
    waits, problems = [], iter(["a", "a", "b", client_loop.SENT_AWAY, None, "a"])
    monkeypatch.setattr(client_loop, "_wait", waits.append)
    with closing(wire.dialer()) as line:
        serving, said = served(wire, line, tmp_path), []
        serving.say = said.append
        monkeypatch.setattr(serving, "_turn", lambda: next(problems))
        with pytest.raises(StopIteration):
            serving.serve()
    assert waits == [1, 2, 3, 4, 1]
    assert said == ["a", "b", client_loop.SENT_AWAY, "a"]


def test_a_client_that_is_sent_away_at_once_waits_before_it_asks_again(wire, tmp_path):
    wire.engine._desk.close()
    with closing(wire.dialer()) as line:
        assert served(wire, line, tmp_path)._turn() == client_loop.SENT_AWAY


@pytest.mark.parametrize(
    "ca", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "\u00e9"]
)
def test_certificates_that_cannot_be_read_are_one_sentence(ca):
    with pytest.raises(UnusableInput, match="no certificate in PEM form"):
        trusting(ca)


@pytest.mark.parametrize("proxy", ["nonsense", "ftp://x", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_one_sentence(wire, proxy):
    with pytest.raises(UnusableInput, match=r"network\.proxy"):
        Dialer(Place("https://127.0.0.1:1", SERVER.public, RUN, 0, CLIENTS[0], None, proxy))


def test_lines_about_what_others_say_are_short_and_can_be_printed():
    line = str(NotReached("\x1b[2J" + "x" * 10_000))
    assert len(line) <= 300
    assert line.isprintable()


# ------------------------------------------------------------------------------- somebody who changes and holds back


class Middle:
    """Ends TLS before the server, without any key: sends on what `change` makes of a head, or answers in its place.

    `change(head)` gives the head to send on, or `(pieces of a reply, seconds between them)`.
    """

    def __init__(self, wire, change):
        self.wire, self.change, self.heads = wire, change, []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(*wire.pem)
        self._ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def dialer(self):
        port = self._socket.getsockname()[1]
        ca = self.wire.pem[0].read_text()
        return Dialer(Place(f"https://127.0.0.1:{port}", SERVER.public, RUN, 0, CLIENTS[0], ca))

    def close(self):
        self._ended.set()
        self._socket.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                raw, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw):
        with suppress(OSError), self._tls.wrap_socket(raw, server_side=True) as line:
            head = b""
            while b"\r\n\r\n" not in head:
                head += line.recv(65_536)
            self.heads.append(head)
            changed = self.change(head)
            if isinstance(changed, bytes):
                line.sendall(self._asked(changed))
                return
            pieces, seconds = changed
            for piece in pieces:
                line.sendall(piece)
                if self._ended.wait(seconds):
                    return

    def _asked(self, head):
        upstream = socket.create_connection(("127.0.0.1", self.wire.port), timeout=10)
        with self.wire.tls().wrap_socket(upstream, server_hostname="127.0.0.1") as line:
            line.sendall(head.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            reply = b""
            with suppress(OSError):
                while more := line.recv(65_536):
                    reply += more
            return reply


HEAD = re.compile(
    rb"GET (?P<path>/v1/[0-9a-f]+/next)\?offset=(?P<offset>0) HTTP/1.1\r\n.*authorization: fgrpo (?P<client>0)"
    rb"\.(?P<time>\d+)\.(?P<digest>[0-9a-f]+)\.(?P<length>0)\.(?P<public>[0-9a-f]+)\.(?P<signature>[0-9a-f]+)\r\n"
    rb"x-fgrpo-version: (?P<version>1)\r\n",
    re.DOTALL | re.IGNORECASE,
)
OTHERS = {
    "path": lambda path: path[:-4] + b"text",
    "offset": lambda _: b"1",
    "client": lambda _: b"1",
    "time": lambda time: b"%d" % (int(time) - 86_400),
    "digest": lambda digest: digest[::-1],
    "length": lambda _: b"1",
    "public": lambda _: CLIENTS[1].public.hex().encode(),
    "signature": lambda signature: signature[::-1],
    "version": lambda _: b"2",
}


def replaced(head, field):
    """A request with another value in one field of its head."""
    found = HEAD.match(head)
    start, end = found.span(field)
    return head[:start] + OTHERS[field](found[field]) + head[end:]


CHANGES = {
    "nothing": lambda head: head,
    **{f"another {field}": partial(replaced, field=field) for field in OTHERS},
    "no version": lambda head: re.sub(rb"x-fgrpo-version: 1\r\n", b"", head, flags=re.IGNORECASE),
    "no prefix": lambda head: head.replace(b"GET /v1", b"GET ", 1),
    "an encoded path": lambda head: head.replace(b"/next?", b"/nex%74?", 1),
    "no query": lambda head: head.replace(b"?offset=0", b"", 1),
    "another method": lambda head: head.replace(b"GET", b"PUT", 1),
    "credentials of another client": lambda head: HEAD.sub(
        lambda found: found[0].replace(found["signature"], signed_now(1).signature.hex().encode()), head
    ),
}


def test_every_part_of_a_request_has_a_change():
    assert set(OTHERS) == set(HEAD.groupindex), "the generator below must know all that a request says"


@pytest.mark.parametrize("change", CHANGES)
def test_whoever_changes_a_request_makes_its_client_wait_and_nothing_else(wire, tmp_path, change):
    """The server signs a refusal to what it received; the client sent something else, and does not believe it."""
    wire.ask("share", {0: b"q"}, 30)
    with closing(Middle(wire, CHANGES[change])) as middle, closing(middle.dialer()) as line:
        if change == "nothing":
            assert line.next().payload == b"q"
        else:
            assert served(wire, line, tmp_path)._turn().startswith("the server is not reached")
        assert middle.heads


def test_a_request_that_is_held_back_until_it_is_old_ends_nobody(wire, tmp_path, monkeypatch):
    monkeypatch.setattr(signing, "WINDOW", -1)  # whenever it comes, it is late
    with closing(wire.dialer()) as line:
        turn = served(wire, line, tmp_path)._turn()
    assert turn.startswith("the server is not reached: 425")


def test_a_reply_that_is_held_back_moves_no_clock_that_is_right(wire, monkeypatch):
    wire.ask("share", {0: b"q"}, 30)
    with closing(wire.dialer()) as line:
        honest = line._send

        def held(*asked):
            reply, really = honest(*asked), client_loop.entropy.unix_time
            monkeypatch.setattr(client_loop.entropy, "unix_time", lambda: really() + 100)  # it took so long
            return reply

        monkeypatch.setattr(line, "_send", held)
        line.next()
        assert line._ahead == 0


def endless(piece):
    while True:
        yield piece


SLOW = {
    "a body of four million bytes, one at a time": b"x",
    "early hints for ever": b"HTTP/1.1 103 Early Hints\r\n\r\n",
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_reply_that_comes_drop_by_drop_is_given_up(wire, monkeypatch, kind):
    monkeypatch.setattr(dialer, "WHOLE", 1.5)
    first = b"" if b"HTTP" in SLOW[kind] else b"HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\n"
    pieces = chain([first], endless(SLOW[kind]))
    waited = threading.Event()

    def wait():
        with pytest.raises(NotReached):
            line.next()
        waited.set()

    with closing(Middle(wire, lambda _: (pieces, 0.2))) as middle, closing(middle.dialer()) as line:
        threading.Thread(target=wait, daemon=True).start()
        assert waited.wait(20), "a client waits for ever for whoever says little"


def test_cookies_that_somebody_sets_are_not_kept(wire):
    cookie = b"".join(b"set-cookie: a%d=%s; max-age=9999999\r\n" % (i, b"x" * 3800) for i in range(8))
    reply = b"HTTP/1.1 503 no\r\n" + cookie + b"content-length: 0\r\nconnection: close\r\n\r\n"
    with closing(Middle(wire, lambda _: ([reply], 0))) as middle, closing(middle.dialer()) as line:
        for _ in range(2):
            with pytest.raises(NotReached):
                line.next()
        assert b"cookie:" not in middle.heads[1].lower()
