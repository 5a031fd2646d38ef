"""What Prometheus reads of a server: sums, in its own format, on a socket of its own."""

import socket
import threading
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fgrpo_secure.engines.https import metrics, server_loop
from fgrpo_secure.errors import UnusableInput
from tests.fgrpo_secure.engines.test_refusals import NEXT


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def read(port):
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}


def test_prometheus_reads_sums_and_nothing_of_any_client(wire):
    port = free_port()
    wire.engine.show_metrics(("127.0.0.1", port))
    before = read(port)
    _, step = wire.ask("share", {0: b"q", 1: b"q"}, 10)
    wire.answer(0, b"abc")
    wire.answer(1, b"abc")
    step.join()
    wire.send(*NEXT)
    after = read(port)
    assert set(after) == {*(f"fgrpo_{name}_total" for name in metrics.COUNTED), "fgrpo_connections"}
    grown = {name: after[name].value - before[name].value for name in after}
    assert (grown["fgrpo_answers_total"], grown["fgrpo_refused_total"], grown["fgrpo_bytes_in_total"]) == (2, 1, 8)
    assert all(sample.labels == {} for sample in after.values()), "a label could name a client"
    wire.engine._end_metrics()
    with pytest.raises(httpx.ConnectError):
        read(port)


def test_readers_that_say_nothing_cost_a_few_threads_and_make_room(wire, monkeypatch):
    monkeypatch.setattr(metrics._Handler, "timeout", 1.0)
    port = free_port()
    wire.engine.show_metrics(("127.0.0.1", port))
    before, idle = threading.active_count(), []
    try:
        idle += [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * metrics.READERS)]
        time.sleep(0.3)
        assert threading.active_count() - before <= metrics.READERS
        time.sleep(1.2)
        assert read(port)
    finally:
        for each in idle:
            each.close()


def test_the_clients_port_shows_no_metrics(wire):
    assert wire.send("GET", "/../metrics").status_code in (401, 404)


def test_a_place_where_metrics_cannot_be_shown_is_one_sentence(wire):
    with pytest.raises(UnusableInput, match="cannot show metrics on"):
        wire.engine.show_metrics(("127.0.0.1", wire.port))
    with pytest.raises(UnusableInput, match="write HOST:PORT"):
        server_loop.address("9100")
