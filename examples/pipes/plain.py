"""The plainest pipe there is: from an owner's socket to the server's on one machine. Run it as a user of its own.

    python examples/pipes/plain.py OWNERS_SOCKET SERVERS_SOCKET

A pipe between machines has a network in its middle: whatever is there instead of `http_messages.ask` must bring the
same bytes to the server's socket, and its reply back.
"""

import sys
from functools import partial

import http_messages

if __name__ == "__main__":
    own, server = sys.argv[1:]
    http_messages.serve(own, partial(http_messages.ask, server))
