"""What a server shows to Prometheus, where its operator asked for it: sums over all clients, and nothing of any one.

On a socket of its own, in plain text, for the operator's machines alone: clients and strangers never reach it.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fgrpo_secure.engines.https.desk import Counts
from fgrpo_secure.errors import UnusableInput

READERS = 8  # connections at a time, a thread each; a further one is closed
PATIENCE = 5.0  # seconds for what a reader sends next

COUNTED = {
    "requests": "Requests that came.",
    "refused": "Requests that were refused.",
    "answers": "Answers that became whole.",
    "bytes_in": "Bytes of answers that were kept.",
    "bytes_out": "Bytes of questions, models and rosters that were sent.",
}


class _Collector(Collector):
    def __init__(self, counts: Counts, connections: Callable[[], int]) -> None:
        self._counts = counts
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        for name, said in COUNTED.items():
            yield CounterMetricFamily(f"fgrpo_{name}", said, value=getattr(self._counts, name))
        yield GaugeMetricFamily("fgrpo_connections", "Connections that are open.", value=self._connections())


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, *_: object) -> None:
        """Nothing: who reads is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 4 * READERS

    def __init__(self, listen: tuple[str, int]) -> None:
        if ":" in listen[0]:
            self.address_family = socket.AF_INET6
        self._room = threading.BoundedSemaphore(READERS)
        super().__init__(listen, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()


def serve(counts: Counts, connections: Callable[[], int], listen: tuple[str, int]) -> Callable[[], None]:
    """Answer GET /metrics at `listen` from now on; the result ends that. UnusableInput if it cannot listen there."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(counts, connections))
    try:
        server = _Server(listen)
    except OSError as problem:
        raise UnusableInput(f"cannot show metrics on {listen[0]} port {listen[1]}: {problem.strerror}") from None

    server.set_app(make_wsgi_app(registry))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close
