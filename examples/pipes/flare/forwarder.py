"""What NVIDIA FLARE runs of this pipe: a listener in each site's job process, and at the server one that asks.

    owner's client -> Site  ...a message to the job's server process, and its reply...  Server -> the server's socket

A site may speak first here, and wait for the reply: nothing is stored in between. No task is ever given out. A request
has at most 4 MiB and some headers, which FLARE's cells take as one message.
"""

import os
import threading
import time

import http_messages
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

TOPIC = "fgrpo"
BYTES = "bytes"


class Site(Executor):
    """Listens where `FGRPO_OWNERS` of the site's environment says, paths with ":" between."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin when the job does; its process ends with it."""
        if event_type == EventType.START_RUN:
            self._engine = fl_ctx.get_engine()
            for path in os.environ["FGRPO_OWNERS"].split(":"):
                threading.Thread(target=http_messages.serve, args=(path, self._carry), daemon=True).start()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:  # noqa: ARG002
        """No task comes; FLARE wants somebody who would do it."""
        return Shareable()

    def _carry(self, request: bytes) -> bytes:
        with self._engine.new_context() as fl_ctx:
            asked = Shareable({BYTES: request})
            replies = self._engine.send_aux_request(["server"], TOPIC, asked, http_messages.SILENCE, fl_ctx)
        return bytes(replies.get("server", {}).get(BYTES, b""))


class Server(Controller):
    """Asks the socket that `FGRPO_SERVER` of the server's environment names."""

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Before any site is served."""
        fl_ctx.get_engine().register_aux_message_handler(TOPIC, self._ask)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:  # noqa: ARG002 - FLARE's form
        """Until somebody aborts the job."""
        while not abort_signal.triggered:
            time.sleep(0.5)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is kept."""

    def process_result_of_unknown_task(self, *_: object) -> None:
        """No task is given out."""

    def _ask(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:  # noqa: ARG002 - FLARE's form
        return Shareable({BYTES: http_messages.ask(os.environ["FGRPO_SERVER"], request[BYTES])})
