"""A worker process: `python -m fgrpo_secure.engines.worker RUN_DIR INDEX COUNT` for some owners of a trial, and
`... worker --owner FOLDER RUN` for one organisation, whose idle client is too small to train.

Reads requests from standard input and writes replies to standard output; everything else goes to standard error.
It ends when its parent does, however that ends: see `request_pipe`.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from fgrpo_secure.config import files as config_file
from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.host import Host
from fgrpo_secure.engines.request_pipe import Requests
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.run_directory import RunDirectory


def main(arguments: list[str]) -> int:
    """Serve one host until the pipe closes."""
    requests, replies = Requests(os.fdopen(os.dup(0), "rb")), os.fdopen(os.dup(1), "wb")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started this may ignore it, and then ends of ours are lost
    os.dup2(2, 1)  # whatever a reward function prints must not end up between the frames
    torch.set_num_threads(1)
    host = _opened(arguments)
    requests.answered()
    frames.write(replies, frames.Done())
    while (request := requests.next()) is not None:
        for reply in host.handle(request):
            frames.write(replies, reply)
        requests.answered()
        frames.write(replies, frames.Done())
    host.close()
    return 0


def _opened(arguments: list[str]) -> Host:
    if arguments[0] == "--owner":
        return Host.of_owner(ClientFolder.open(Path(arguments[1])), arguments[2])
    root, index, count = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    config = config_file.load(str(RunDirectory(root).config))
    return Host.open(RunDirectory(root).with_owners(config.engine.owners), config, index, count)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
