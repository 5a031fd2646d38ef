"""Workers of a run as threads of this process, and the coordinator beside them, over one database."""

import threading
from contextlib import closing

from fgrpo_secure.engines.workers import working
from fgrpo_secure.engines.workers.coordination import Coordination
from fgrpo_secure.engines.workers.database import Address, Database
from tests.fgrpo_secure.engines.postgres import address_file


class WorkersHere:
    """A coordinator and its workers. `addresses` are where these listen, in order."""

    def __init__(self, config, directory, text, certificate, count=2):
        self._text = text
        self._file = address_file(directory.private, text)
        self.lines: list[str] = []
        self.addresses: list[tuple[str, int]] = []
        self._listens = threading.Semaphore(0)
        self.coordination = Coordination(directory, self.database(), count, self.lines.append)
        self.engine = self.coordination.open_engine(directory, config)
        self._threads = []
        for number in range(1, count + 1):
            place = working.Place(("127.0.0.1", 0), certificate)
            arguments = directory, self.database(), (number, count), place, self._say
            thread = threading.Thread(target=working.work, args=arguments, daemon=True)
            self._threads.append(thread)
            thread.start()
            assert self._listens.acquire(timeout=60), self.lines

    def database(self):
        return Database(Address.read(self._file))

    def close(self):
        with closing(self.coordination):
            self.engine.close()
            self.engine._over = True  # for the workers; clients were ended before
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a worker did not end with its run"

    def _say(self, line):
        self.lines.append(line)
        if line.startswith("listens on "):
            host, port = line.removeprefix("listens on ").rsplit(":", 1)
            self.addresses.append((host, int(port)))
            self._listens.release()
