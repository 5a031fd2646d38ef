"""A Ray cluster of several nodes on this machine, started as its users start one."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager

import pytest

NODE = ("--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block")
RAY_START = (sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())", "start")
TOKEN = secrets.token_hex(32)  # Ray listens on every address, and whoever reaches it runs code in it
ATTEMPTS = 4  # a node that is not up in 30 seconds gives up, as on a machine with other things to do


@contextmanager
def cluster(nodes, own_disk=None):
    """Its nodes' processes, with RAY_ADDRESS naming it; all have ended afterwards. With `own_disk`, a folder, all nodes
    but the first have a file system of their own there, as other machines would."""
    place = f"{_address(0)}:{_free_port()}"
    ours = {"RAY_ADDRESS": place, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    ours |= {"RAY_worker_niceness": "0"}  # what hosts train in would wait for every other test
    with ExitStack() as open_, pytest.MonkeyPatch.context() as patch:
        for name, value in ours.items():
            patch.setenv(name, value)
        import ray  # which reads the token now, and once

        folder = open_.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True))
        head = ("--head", f"--port={place.split(':')[1]}", "--include-dashboard=false", f"--temp-dir={folder}")
        started = [_node(open_, 0, head)]
        started += [_node(open_, each, (f"--address={place}",), own_disk) for each in range(1, nodes)]
        ray.init(logging_level="warning")
        open_.callback(ray.shutdown)
        while sum(node["Alive"] for node in ray.nodes()) < nodes:
            time.sleep(0.1)
        yield started


def _node(open_, number, arguments, own_disk=None):
    """The process of a node that is up. Everything that it starts is in its own session."""
    command = [*RAY_START, *NODE, f"--node-ip-address={_address(number)}", *arguments]
    if own_disk is not None:
        mounted = 'mount -t tmpfs none "$0" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mounted, str(own_disk), *command]
    for _ in range(ATTEMPTS):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                open_.callback(_end, process)
                return process
        _end(process)
    raise AssertionError("".join(said))


def _end(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stdout.close()


def _address(number):
    """Of a node. Ray replaces 127.0.0.1 by an address that others reach; Linux has the whole network 127 here."""
    return f"127.0.0.{2 + number}"


def _free_port():
    with socket.socket() as probe:
        probe.bind((_address(0), 0))
        return probe.getsockname()[1]
