"""What Flower runs of this pipe: at a site a visit to its door for each message, at the server a thread per request.

    owner's client -> door.py <-> visit()  ...SuperNode, TLS, SuperLink...  serve() -> the server's socket

Flower's messages begin at the server, and each has a process of its own at the site. So `serve` keeps a message under
way to every site with room for a request: one that brings replies, or asks what is waiting. A request is a record of
its own, below the 5 MiB in which Flower moves things.
"""

import threading
import time
from multiprocessing.connection import Client  # for its frames: what is sent and received here are bytes, no pickles
from queue import SimpleQueue

import http_messages
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

PAUSE = 3.0  # seconds between two visits that bring nothing: each is a process of a second and a half
STAYS, PASSES_BY = 60.0, 2.0  # seconds that a visit waits for a request: while nothing is asked, and while replies come
TURN, LOOKS = 0.5, 10.0  # seconds between two questions to the SuperLink: for messages, and for SuperNodes
LIFE = 150.0  # seconds that Flower keeps a message; an owner's client gives up after 180
client = ClientApp()  # two lines: Flower reads this file for names before it runs it
server = ServerApp()


@client.query()
def visit(message: Message, context: Context) -> Message:
    """Hand in the replies, and take the requests that are waiting."""
    with Client(str(context.node_config["door"]), family="AF_UNIX") as door:
        replies = dict(message.content.config_records)
        door.send_bytes(b"%d" % replies.pop("stay")["seconds"])
        for name, record in replies.items():
            door.send_bytes(name.encode() + b" " + record["bytes"])
        door.send_bytes(b"")
        came = dict(iter(lambda: door.recv_bytes().partition(b" ")[::2], (b"", b"")))
    doors = int(came.pop(b"doors"))
    records = {name.decode(): ConfigRecord({"bytes": request}) for name, request in came.items()}
    return Message(RecordDict(records | {"doors": ConfigRecord({"number": doors})}), reply_to=message)


class Site:
    """One SuperNode: what is asked for it at the server, and what is ready to go back."""

    def __init__(self, path: str) -> None:
        self.path, self.doors, self.under_way, self.last = path, 1, None, 0.0
        self.asking: list[threading.Thread] = []
        self.ready: SimpleQueue[tuple[str, bytes]] = SimpleQueue()

    def due(self) -> bool:
        """Whether a visit is worth a process: there are replies, or an owner that may have a request."""
        self.asking = [each for each in self.asking if each.is_alive()]
        more = len(self.asking) < self.doors and time.monotonic() - self.last > PAUSE
        return self.under_way is None and (more or not self.ready.empty())

    def message(self, node: int) -> Message:
        """A visit that brings all replies that are ready, once."""
        ready = dict(self.ready.get() for _ in range(self.ready.qsize()))
        records = {name: ConfigRecord({"bytes": reply}) for name, reply in ready.items()}
        records["stay"] = ConfigRecord({"seconds": PASSES_BY if self.asking else STAYS})
        return Message(RecordDict(records), node, "query", ttl=LIFE)

    def take(self, reply: Message) -> None:
        """A visit is over, well or not: begin to ask for what it brought."""
        self.under_way, self.last = None, time.monotonic()
        if reply.has_error():
            return
        records = dict(reply.content.config_records)
        self.doors = records.pop("doors")["number"]
        for name, record in records.items():
            self.asking.append(threading.Thread(target=self._ask, args=(name, record["bytes"]), daemon=True))
            self.asking[-1].start()

    def _ask(self, name: str, request: bytes) -> None:
        self.ready.put((name, http_messages.ask(self.path, request)))


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """For ever: whoever started the run stops it."""
    sites: dict[int, Site] = {}
    looked = -LOOKS
    while True:
        if time.monotonic() - looked > LOOKS:
            looked = time.monotonic()
            for node in grid.get_node_ids():
                sites.setdefault(node, Site(str(context.run_config["server"])))
        for node, site in sites.items():
            if site.due():
                (site.under_way,) = grid.push_messages([site.message(node)])
        under_way = {site.under_way: site for site in sites.values() if site.under_way is not None}
        for reply in grid.pull_messages(list(under_way)) if under_way else ():
            under_way[reply.metadata.reply_to_message_id].take(reply)
        time.sleep(TURN)
