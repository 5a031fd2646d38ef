"""What every test runs under: one thread per process, no model hub, no deadline for a property.

Examples are the same at every run of the same commit, so that a gate says the same of it twice; new ones are looked
for by `--hypothesis-profile=explore` and by `make fuzz`.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

# Before torch or transformers is imported by any test; worker processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("tests", settings.get_profile("explore"), derandomize=True)
settings.register_profile("quick", settings.get_profile("tests"), max_examples=20)  # `make quick`
settings.load_profile("tests")

LONGEST = ("tests/test_documented_commands.py", "tests/threat_model/test_attacks.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: left to the end, one of two processes would wait for the other's last whole runs."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
