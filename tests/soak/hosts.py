"""Hosts of a network of their own, on this machine: network namespaces, joined by a bridge.

    NAME-net        the bridge, and whatever stands between the hosts: 10.77.0.1
    NAME-0 ...      a host each, with one line to the bridge: 10.77.0.10, .11, ...; its loopback is its own

Nothing of it is in the machine's own network: no address, no interface, no route, so that any number of them may exist
side by side. Leaving the block ends what still runs in the hosts, and removes them.
"""

import os
import secrets
import subprocess
import time
from contextlib import suppress

BETWEEN = "10.77.0.1"
FIRST = 10


class NoHosts(Exception):
    """This machine makes none; the sentence says why."""


def _ip(*words, batch=None):
    try:
        done = subprocess.run(["ip", *words], input=batch, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoHosts("hosts are network namespaces, which `ip` makes; there is none (package iproute2)") from None
    if done.returncode:
        raise NoHosts(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Hosts:
    """See the module; a context that makes and removes them."""

    def __init__(self, count):
        self.name = f"fgrpo-{os.getpid()}-{secrets.token_hex(4)}"
        self._count = count
        self._made = []

    @staticmethod
    def known(name):
        """Those that another process made."""
        hosts = Hosts(0)
        hosts.name = name
        return hosts

    def __enter__(self):
        if os.geteuid() != 0:
            raise NoHosts("network namespaces are made by root alone")
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self):
        net, *others = self.names
        for name in (net, *others):
            _ip("netns", "add", name)
            self._made.append(name)
        between = f"link add hosts type bridge\nlink set hosts up\naddr add {BETWEEN}/24 dev hosts\n"
        _ip("-n", net, "-batch", "-", batch=between)
        for number, name in enumerate(others):
            port = f"host{number}"
            here = f"link add {port} type veth peer name line netns {name}\nlink set {port} master hosts up\n"
            there = f"link set lo up\nlink set line up\naddr add {self.address(number)}/24 dev line\n"
            _ip("-n", net, "-batch", "-", batch=here)
            _ip("-n", name, "-batch", "-", batch=there)

    def __exit__(self, *_):
        for name in self._made:
            deadline = time.monotonic() + 20
            while (left := _ip("netns", "pids", name).split()) and time.monotonic() < deadline:
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), 9)
                time.sleep(0.05)
            with suppress(NoHosts):
                _ip("netns", "del", name)
        self._made.clear()

    @property
    def names(self):
        """All namespaces, that between the hosts first."""
        return [self._namespace(number) for number in range(-1, self._count)]

    def _namespace(self, number):
        return f"{self.name}-{'net' if number < 0 else number}"

    @staticmethod
    def address(number):
        """Of a host."""
        return f"10.77.0.{FIRST + number}"

    def on(self, number):
        """What starts a command on a host; -1 is between them."""
        return ["ip", "netns", "exec", self._namespace(number)]

    def line(self, number, up):
        """Unplug a host's line, or plug it in again: whoever sends hears nothing."""
        _ip("-n", self._namespace(-1), "link", "set", f"host{number}", "up" if up else "down")
