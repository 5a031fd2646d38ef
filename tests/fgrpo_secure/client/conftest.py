"""Plans as a client's record sees them: a number, a run, an adapter."""

import pytest

from protocols import labels
from protocols.params import Adversary
from protocols.wire import RoundPlan


def plan_of(number, run=b"r" * 16, adapter=b"a" * 32):
    return RoundPlan(
        labels.VERSION, run, number, bytes(32), 1, (0, 1, 2, 3, 4), (("adapter", adapter),), b"{}", (("update", 1),),
        20, Adversary.LYING_SERVER, 1, 4, 4, 4, 4,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_plan():
    return plan_of
