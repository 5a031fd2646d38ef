"""Whole data files with and without each unit: nothing about any other unit may change, and the sum by B at most.

Files are generated, lines and all: columns missing, extra and nested, any text, duplicates, any order, nobody's lines.
"""

import dataclasses
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgrpo_secure.client.owner import make_owners
from fgrpo_secure.config.files import parse
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.plan import round_settings
from threat_model.audit import data

ROOM = 40
EXAMPLES = int(os.environ.get("FGRPO_NEIGHBOURS", "6"))  # run long once: 2,000
NOBODYS = (b"", b"{", b"[1]", b'{"prompt": ""}', b'{"prompt": 7}', b'{"prompt": "1", "completions": 1}', b"\xff\xfe")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
PROMPTS = st.text("0123456789+-=", min_size=1, max_size=8) | st.text(min_size=1, max_size=6) | st.just("1+1=" * 500)
ROWS = st.fixed_dictionaries(
    {"prompt": PROMPTS},
    optional={"answer": VALUES, "hint": VALUES, "\ud800": VALUES, "weight": st.floats(allow_nan=False)},
)
SUBJECTS = st.integers(-9, 9) | st.text(max_size=3).filter(bool) | st.sampled_from(["7", "\ud800", "é", "e\u0301"])
UNITS = st.dictionaries(SUBJECTS.map(json.dumps), st.lists(ROWS, min_size=1, max_size=3), min_size=1, max_size=4)


def configuration(path, unit):
    return parse(
        {
            "adapter": {"rank": 1},
            "grpo": {"num_generations": 2, "max_completion_length": 3}
            | ({"prompts_per_step": 2} if unit == "subject" else {}),
            "privacy": {"unit": unit, "epsilon": 60.0, "clip_norm": 0.01, "units_per_client": ROOM},
            "client": [{"name": "a", "data": str(path), "reward": "curious:pay", "subject": "person"}],
        },
        "test",
    )


def curious(prompts, completions, completion_ids, hint=0, **columns):
    """Pays for everything that it can see: columns, lengths, other completions of the call."""
    seen = sum(map(len, prompts)) + len(columns) + len(repr(hint))
    return [len(text) + seen % (5 + place) for place, text in enumerate(completions)]


@st.composite
def files(draw):
    """A data file as (unit or None, line) pairs in any order, sometimes with the same row twice."""
    cut = draw(UNITS)
    every = [(unit, json.dumps(row | {"person": json.loads(unit)}).encode()) for unit in cut for row in cut[unit]]
    every += draw(st.lists(st.sampled_from(every), max_size=2))
    every += [(None, line) for line in draw(st.lists(st.sampled_from(NOBODYS), max_size=2))]
    return draw(st.permutations(every))


@pytest.fixture(scope="module")
def adapted():
    config = configuration("none", "subject")
    return adapters.attach(models.load(config.model), config.adapter, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("neighbours")


def seen(adapted, folder, unit, kept):
    path = folder / "rows.jsonl"
    path.write_bytes(b"".join(line + b"\n" for _, line in kept))
    config = configuration(path, unit)
    (owner,) = make_owners(config.client[:1], 0, {0}, folder, unit, ROOM).values()
    owner = dataclasses.replace(owner, reward_functions=(curious,))
    chosen = round_settings.for_round(config, 0, 400)
    return data.see(owner, adapted, chosen), chosen.unit_lattice(adapted.dimension(0)).integer_bound


def check(adapted, folder, unit, file):
    """Every unit of the file taken away once."""
    whole, bound = seen(adapted, folder, unit, file)
    away = {name for name, _ in file} if unit == "subject" else range(len(file))
    for gone in away - {None} if unit == "subject" else away:
        kept = [each for place, each in enumerate(file) if (each[0] if unit == "subject" else place) != gone]
        without, _ = seen(adapted, folder, unit, kept)
        found = data.difference(whole, without, bound)
        assert found.passed, (gone, found)


@pytest.fixture(autouse=True)
def no_process(monkeypatch):
    """The reward is this file's own function: no process is needed to call it."""
    monkeypatch.setattr("fgrpo_secure.client.owner.reward_of", lambda *_: curious)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["subject", "prompt_group"])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(file=files())
def test_taking_a_unit_away_changes_nothing_about_any_other(adapted, folder, unit, file):
    check(adapted, folder, unit, file)


@pytest.mark.parametrize("unit", ["subject", "prompt_group"])
@pytest.mark.parametrize(
    "special",
    [
        {"hint": "only she has one"},
        {"answer": None},
        {"prompt": "\ud800"},
        {"prompt": "1" * 5000},
        {"nested": [[[{"deep": [1]}]]]},
    ],
)
def test_what_only_one_unit_has_reaches_no_other(adapted, folder, unit, special):
    rows = [("ann", {"prompt": "1+1=", "answer": "2"}), ("bob", {"prompt": "2+2=", "answer": "4"} | special)]
    rows += [("cas", {"prompt": "3+3="})]
    check(adapted, folder, unit, [(name, json.dumps(row | {"person": name}).encode()) for name, row in rows])


def test_a_unit_with_a_thousand_rows_beside_units_of_one(adapted, folder):
    def row(name, number):
        return name, json.dumps({"prompt": f"{number}+1=", "person": name, f"c{number % 7}": number}).encode()

    file = [row("many", number) for number in range(1000)] + [row("ann", 1), row("bob", 2)]
    check(adapted, folder, "subject", file)
