"""The daemon between its server and the process that answers."""

import time
from contextlib import closing

from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.https.client_loop import Serving
from fgrpo_secure.engines.https.session_process import SessionEnded


class EndsOnce:
    """A session's process that ends over the first step, and answers the next."""

    running = False

    def __init__(self):
        self.steps = []

    def ask(self, request):
        if not isinstance(request, frames.Step):
            return []
        self.steps.append(request)
        if len(self.steps) == 1:
            raise SessionEnded("it ended")
        return [frames.Answer(0, b"a")]


def test_the_process_that_takes_over_is_told_how_long_ago_its_client_was_asked_first(wire, tmp_path):
    wire.ask("announce", {0: b"q"}, 30)
    session = EndsOnce()
    (tmp_path / "daemon").mkdir()
    with closing(wire.dialer()) as line:
        serving = Serving(line, session, tmp_path / "daemon", lambda _: None, 1 << 20)
        assert serving._turn() == "it ended"
        time.sleep(0.5)
        assert serving._turn() is None
        wire.ask("share", {0: b"q"}, 30)
        assert serving._turn() is None
    first, again, other = session.steps
    assert again.waited >= 0.5 > max(first.waited, other.waited)
    assert (first.trains, again.trains, other.trains) == (True, False, True)
