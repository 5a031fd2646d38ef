"""The page about the threat model is current, and names nothing that is not there."""

import re

from threat_model import table
from threat_model.registry import ATTACKS

PAGE = table.README.read_text("utf-8")
NAMES = {attack.name for attack in ATTACKS}


def test_the_table_of_attacks_is_current() -> None:
    assert table.renewed(PAGE, ATTACKS) == PAGE, "run python -m threat_model.table"


def test_every_attack_that_a_claim_names_exists() -> None:
    claims = PAGE.partition("## Claims")[2].partition("## What remains")[0]
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", claims))
    assert named
    assert named <= NAMES


def test_every_attack_stands_behind_a_claim_or_a_remaining_risk() -> None:
    text = PAGE.partition("## The attacks")[0]
    assert [name for name in sorted(NAMES) if f"`{name}`" not in text] == []


def test_every_remaining_risk_that_a_claim_refers_to_is_listed() -> None:
    claims = PAGE.partition("## Claims")[2].partition("## What remains")[0]
    rows = [line for line in claims.splitlines() if line.startswith("| ") and "---" not in line][1:]
    referred = {int(number) for row in rows for number in re.findall(r"\d+", row.rsplit("|", 2)[1])}
    listed = {int(number) for number in re.findall(r"^(\d+)\. \*\*", PAGE, re.M)}
    assert referred <= listed
