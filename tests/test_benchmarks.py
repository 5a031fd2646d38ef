"""Benchmarks measure whole sessions: they must go on working when the protocol changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_measured_session_ends_with_the_right_sum_and_names_what_was_measured():
    command = [sys.executable, "benchmarks/session.py", "--n", "6", "--d", "50", "--drop", "0.17"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    result = json.loads(output)
    assert result["ok"] is True
    assert result["n_drop"] == 1
    assert {"client_mask_s", "client_masking_s", "limit_s", "server_unmask_s", "up_bytes_total"} <= set(result)
