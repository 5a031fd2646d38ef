"""The stages of the server's round: no order but the right one type-checks, and no stage can be changed afterwards."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from mypy import api

from fgrpo_secure.server import stages
from fgrpo_secure.server.shard_sums import ShardSums

ROOT = Path(__file__).parents[3]

HEAD = """
from collections.abc import Callable

from fgrpo_secure.server import stages
from fgrpo_secure.server.federation import Federation
from fgrpo_secure.server.round import Conclusion
from fgrpo_secure.server.shard_sums import ShardSums
from fgrpo_secure.plan.terms import Admitted
from protocols.wire import RoundPlan

Run = Callable[[tuple[stages.OpenedSession, ...]], ShardSums]
Make = Callable[[ShardSums, Admitted], Conclusion]

def a_round(at: Federation, run: Run, step: Make, unwilling: Callable[[RoundPlan], bool]) -> None:
    opened = at.open_round(0)
    charged = stages.charge(opened, at.ledger, at.identity)
    gathered = stages.gather(charged, run)
    concluded = stages.conclude(gathered, at.ledger, step, unwilling)
    settled = stages.settle(concluded, at.ledger, 1)
    witnessed = stages.witness(settled, None)
    at._publish(0, witnessed)
"""
WRONG = (
    "stages.settle(opened, at.ledger, 1)",
    "stages.settle(charged, at.ledger, 1)",
    "stages.settle(gathered, at.ledger, 1)",
    "stages.gather(opened, run)",
    "stages.conclude(charged, at.ledger, step, unwilling)",
    "stages.witness(concluded, None)",
    "stages.witness(opened, None)",
    "at._publish(0, settled)",
    "at._publish(0, concluded)",
    "stages.charge(charged, at.ledger, at.identity)",
)


def test_settling_before_charging_and_every_other_shortcut_does_not_type_check(tmp_path):
    snippet = tmp_path / "snippet.py"
    snippet.write_text(HEAD + "".join(f"    {line}\n" for line in WRONG))
    config, cache = str(ROOT / "pyproject.toml"), str(ROOT / ".mypy_cache")
    found, errors, _ = api.run(["--config-file", config, "--cache-dir", cache, str(snippet)])
    assert errors == ""
    first = HEAD.count("\n") + 1
    refused = {int(line.split(":")[1]) for line in found.splitlines() if "snippet.py:" in line and "[arg-type]" in line}
    assert refused == set(range(first, first + len(WRONG))), found
    assert found.count("error:") == len(WRONG), "the right order has no error"


@pytest.mark.parametrize("stage", ["Opened", "Charged", "Gathered", "Concluded", "Settled", "Witnessed"])
def test_a_stage_cannot_be_changed(stage):
    kind = getattr(stages, stage)
    made = kind(**{each.name: None for each in fields(kind)})
    with pytest.raises(FrozenInstanceError):
        setattr(made, fields(kind)[0].name, None)


def test_sums_are_added_to_new_ones():
    sums = ShardSums()
    assert sums.without("too few", sums.charge + 1).charge == 1
    assert (sums.charge, sums.failures) == (0, ())
