"""The example that plays a session, as it stands in examples/."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_plays_a_session_to_its_sum():
    """0 + 1 + 2 + 4 + 5 + 6 = 18 times 0, 1, 2, 3: client 3 is lost."""
    command = [sys.executable, str(ROOT / "examples" / "play_a_session.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == "survivors (0, 1, 2, 4, 5, 6), sum [0, 18, 36, 54]\n"
