"""A worker process of the embedded engine: `python -m fgrpo_secure.engines.worker RUN_DIR INDEX COUNT`.

Reads requests from standard input and writes replies to standard output; everything else goes to standard error.
"""

import os
import sys
from pathlib import Path

import torch

from fgrpo_secure import config_file
from fgrpo_secure.engines import frames
from fgrpo_secure.engines.host import Host
from fgrpo_secure.run_directory import RunDirectory


def main(arguments: list[str]) -> int:
    """Serve one host until the pipe closes."""
    root, index, count = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a reward function prints must not end up between the frames
    torch.set_num_threads(1)
    config = config_file.load(str(RunDirectory(root).config))
    host = Host.open(RunDirectory(root).with_owners(config.engine.owners), config, index, count)
    frames.write(replies, frames.Done())
    while (request := frames.read_request(requests)) is not None:
        for reply in host.handle(request):
            frames.write(replies, reply)
        frames.write(replies, frames.Done())
    host.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
