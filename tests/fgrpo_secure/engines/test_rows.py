"""Rows of the failure table that need whole processes and their folders: wrong clocks, and copies that are old."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak import rows

ROOT = Path(__file__).parents[3]
EVERYBODY = list(range(rows.CLIENTS))


@pytest.mark.slow
def test_wrong_clocks_and_old_copies_change_no_sum_and_are_noticed_by_those_who_signed(tmp_path):
    """The server's own clock is a day ahead, too."""
    path = os.pathsep.join([str(ROOT / "tests" / "soak" / "clock"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "CLOCK_AHEAD": str(rows.DAY)}
    command = [sys.executable, "-m", "tests.soak.rows", str(tmp_path / "played")]
    (tmp_path / "played").mkdir()
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    clocks, old_client, old_server, after, end = map(json.loads, done.stdout.splitlines())
    assert (clocks["ending"], clocks["survivors"], clocks["signed"]) == ("sum", rows.CLIENTS, EVERYBODY)
    assert end["wrong_time"] >= rows.CLIENTS - 1, "all clocks but one are another day's than the server's"
    # Who forgot what it paid takes part, and what it says about that is no signature on this ledger.
    assert (old_client["ending"], old_client["signed"]) == ("sum", [each for each in EVERYBODY if each != rows.OLD])
    # A server that forgot a session asks for it again, which nobody answers twice; then nobody signs its ledger.
    assert old_server["refusals"] == ["session 1 does not come after session 1"]
    assert old_server["survivors"] == 0
    assert after["signed"] == []
    assert all(any("not signed: the server's ledger" in line for line in log) for log in end["logs"])
    assert len(end["logs"]) == rows.CLIENTS
    assert end["proxy"][0] > 0, "nobody went through the proxy"
    # Each that was charged and not noted is one of the two copies' own: nothing else is unpaid.
    forgotten = {(0, rows.OLD), *((1, client) for client in EVERYBODY)}
    assert {tuple(each) for each in end["unpaid"]} == forgotten
