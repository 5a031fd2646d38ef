"""Server and clients on hosts of their own (network namespaces), and the lines between them cut."""

import json
import subprocess
import sys

import pytest

from tests.soak.apart import ALL, CLIENTS
from tests.soak.hosts import Hosts, NoHosts

LISTENS = "import socket, time; s = socket.create_server(('0.0.0.0', 5000)); print('here', flush=True); time.sleep(900)"
CALLS = "import socket, sys; socket.create_connection((sys.argv[1], 5000), 2)"


@pytest.fixture
def hosts():
    def make(count):
        try:
            with Hosts(count):
                pass
        except NoHosts as problem:
            pytest.skip(str(problem))
        return Hosts(count)

    return make


def namespaces():
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def reaches(hosts, caller, address):
    done = subprocess.run([*hosts.on(caller), sys.executable, "-c", CALLS, address], capture_output=True, check=False)
    return done.returncode == 0


def call_and_fail(made, started):
    """What hosts hear of each other; then what any test may do."""
    with made:
        program = [*made.on(0), sys.executable, "-c", LISTENS]
        started.append(subprocess.Popen(program, stdout=subprocess.PIPE, text=True))
        assert started[0].stdout.readline() == "here\n"
        made.line(1, up=False)
        assert not reaches(made, 1, made.address(0)), "an unplugged line carries something"
        made.line(1, up=True)
        assert not reaches(made, 1, "127.0.0.1"), "two hosts have one loopback"
        assert any(reaches(made, 1, made.address(0)) for _ in range(60))
        raise ZeroDivisionError


@pytest.mark.slow
def test_hosts_hear_each_other_over_their_lines_alone_and_nothing_of_them_is_left_after_a_failure(hosts):
    made, started = hosts(2), []
    with pytest.raises(ZeroDivisionError):
        call_and_fail(made, started)
    started[0].stdout.close()
    assert started[0].wait(60) == -9
    assert made.name not in namespaces()


@pytest.mark.slow
def test_a_round_between_hosts_whose_lines_are_cut_in_the_middle_of_each_step_ends_with_the_right_sum(hosts, tmp_path):
    """With 0.2 s each way. `python -m tests.soak.apart DIR` plays every step, line and kind of cut one by one."""
    with hosts(1 + CLIENTS) as made:
        command = [*made.on(0), sys.executable, "-m", "tests.soak.apart", "--on", made.name, "--quick"]
        done = subprocess.run([*command, str(tmp_path / "played")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:] or done.stdout
    played, end = map(json.loads, done.stdout.splitlines())
    assert (played["ending"], played["survivors"]) == ("sum", CLIENTS)
    assert list(played["not_answered"]) == list(ALL), "a step was not cut"
    assert min(played["not_answered"].values()) > 0, "a cut came when a step was over"
    assert end["under_charges"] == []
    logs = [path.read_text() for path in (tmp_path / "played").glob("client-*.log")]
    assert sum(log.count("the server is not reached") for log in logs) >= len(ALL), "nobody met a cut"
