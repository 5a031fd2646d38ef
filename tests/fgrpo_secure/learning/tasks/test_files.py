"""Data files: what is read, what is refused and in which words, and that no row leaks into them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.learning.tasks.files import UnusableData, read_rows

Write = Callable[[str | bytes], str]
PLANTED = "planted"  # stands in every row of these tests


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def test_rows_come_back_in_order_with_all_columns_and_blank_lines_skipped(written: Write) -> None:
    path = written('\ufeff{"prompt": "a", "answer": "1"}\n\n{"prompt": "b\\u2028c", "weight": 2}\r\n')
    assert read_rows(path) == [
        {"prompt": "a", "answer": "1", "weight": None},
        {"prompt": "b\u2028c", "answer": None, "weight": 2},
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", 'has no rows; each line must be a JSON object with a "prompt" string'),
        (" \n\n", "has no rows"),
        ('{"prompt": "a"}\n' + PLANTED, "line 2 is not JSON; each line must be one JSON object"),
        ('\n{"prompt": "a"} {"prompt": "planted"}', "line 2 is not JSON"),
        ('{"prompt": "a", "x": NaN, "y": "planted"}', "line 1 is not JSON"),
        ('{"prompt": "a", "x": -Infinity}', "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "line 1 is not JSON"),
        ('["planted"]', "line 1 is JSON but not an object"),
        ('{"question": "planted"}', 'line 1 has no "prompt"; it must be a non-empty string'),
        ('{"prompt": 7, "x": "planted"}', 'line 1 has a "prompt" that is no text or empty'),
        ('{"prompt": ""}', 'line 1 has a "prompt" that is no text or empty'),
        ('{"prompt": "a", "completions": "planted"}', 'line 1 has a field "completions"'),
        (b'{"prompt": "\xff"}', "line 1 is not UTF-8 text"),
        ('{"prompt": "a", "x": "' + "planted" * (1 << 20) + '"}', "bytes; at most 4,194,304 are read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(
    written: Write, content: str | bytes, sentence: str
) -> None:
    path = written(content)
    with pytest.raises(UnusableData) as refusal:
        read_rows(path)
    message = str(refusal.value)
    assert message.startswith(path)
    assert sentence in message
    assert "\n" not in message
    assert PLANTED not in message
    cause = refusal.value.__context__  # json keeps the whole line in its error: a traceback must not show it
    assert cause is None or refusal.value.__suppress_context__


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableData, match=r"there is no data file .*none\.jsonl"):
        read_rows(str(tmp_path / "none.jsonl"))


def test_a_column_that_the_reward_needs_is_required_on_every_line(written: Write) -> None:
    path = written('{"prompt": "a", "answer": "1"}\n{"prompt": "planted", "answer": 1}\n')
    with pytest.raises(UnusableData, match='line 2 lacks the string "answer"') as refusal:
        read_rows(path, needs=["answer"])
    assert PLANTED not in str(refusal.value)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8))
def test_every_json_string_survives_as_a_prompt(tmp_path_factory: pytest.TempPathFactory, prompts: list[str]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    assert [row["prompt"] for row in read_rows(str(path))] == prompts
