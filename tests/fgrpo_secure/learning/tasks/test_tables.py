"""The same rows from lines, a Parquet file, a folder of them and a saved data set; what tables cannot hold."""

import datetime
import json
import tempfile
from decimal import Decimal
from pathlib import Path

import pyarrow
import pytest
from datasets import Dataset, DatasetDict, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from fgrpo_secure.config.schema import Client
from fgrpo_secure.learning.tasks import UnusableData, open_units
from fgrpo_secure.learning.tasks.files import read_rows

MESSAGES = [{"role": "user", "content": "one\u2028\n"}]
ROWS = [{"prompt": MESSAGES, "answer": str(number), "n": number} for number in range(7)]

disable_progress_bars()


def as_parquet(folder: Path) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=3)
    return folder / "rows.parquet"


def as_folder_of_parquet(folder: Path) -> Path:
    for number, part in enumerate((ROWS[:4], ROWS[4:])):
        parquet.write_table(pyarrow.Table.from_pylist(part), folder / f"train-0000{number}-of-00002.parquet")
    return folder


def as_saved_data_set(folder: Path) -> Path:
    Dataset.from_list(ROWS).save_to_disk(folder / "saved", num_shards=2)
    return folder / "saved"


def as_arrow_file(folder: Path) -> Path:
    table = pyarrow.Table.from_pylist(ROWS)
    with ipc.new_file(folder / "rows.arrow", table.schema) as file:
        file.write_table(table)
    return folder / "rows.arrow"


def as_lines(folder: Path) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder / "rows.jsonl"


@pytest.mark.parametrize("write", [as_lines, as_parquet, as_folder_of_parquet, as_saved_data_set, as_arrow_file])
def test_every_form_gives_the_same_rows_and_units(tmp_path, write):
    path = str(write(tmp_path))
    assert read_rows(path, needs=["answer"]) == ROWS
    client = Client(name="a", data=path, reward="exact", subject="answer")
    units = open_units(client, 0, 0, "subject", 7)
    assert list(units.rows.values()) == [(row,) for row in ROWS]
    assert units.left_out == ()


def test_one_row_that_cannot_be_used_is_named_and_spoils_no_other(tmp_path):
    rows = [*ROWS[:2], {"prompt": None, "answer": "PLANTED", "n": 1}, {**ROWS[3], "n": float("nan")}]
    parquet.write_table(
        pyarrow.Table.from_pylist([{**row, "n": float(row["n"])} for row in rows]), tmp_path / "a.parquet"
    )
    with pytest.raises(UnusableData, match=r"a\.parquet, row 3 has no \"prompt\"") as refusal:
        read_rows(str(tmp_path / "a.parquet"))
    assert "PLANTED" not in str(refusal.value)
    units = open_units(Client(name="a", data=str(tmp_path / "a.parquet"), reward="exact"), 0, 0, "prompt_group", 9)
    assert len(units.rows) == 2
    assert "row 4 is not JSON" in units.left_out[1]


FIELDS = {  # what a row may have besides its prompt: usable or not, as Arrow keeps it
    "ward": st.text(max_size=3),
    "answer": st.text("0123456789", max_size=3),
    "note": st.sampled_from([b"", "é".encode(), b"\xff", b"\xed\xa0\x80"]),  # texts of which two are no UTF-8
    "day": st.sampled_from([0, 19_000, 2**31 - 1]),  # dates of which one is beyond the calendar
    "kept": st.lists(st.integers(-9, 9), max_size=2),
}
BEHIND = {"note": (pyarrow.binary(), pyarrow.string()), "day": (pyarrow.int32(), pyarrow.date32())}
TABLES = st.lists(st.fixed_dictionaries({}, optional=FIELDS), min_size=1, max_size=5)


def write_table(path, rows, messages):
    """A table with the columns that these rows have, and no others."""
    columns = {}
    for name in dict.fromkeys(field for _, row in rows for field in row):
        values = [row.get(name) for _, row in rows]
        kind, shown = BEHIND.get(name, (None, None))
        columns[name] = pyarrow.array(values, kind) if shown is None else pyarrow.array(values, kind).view(shown)
    said = [f"{place}+1=" for place, _ in rows]
    if messages:  # one of them has a field that the others lack
        more = [{} if place else {"name": "ann"} for place, _ in rows]
        said = [[{"role": "user", "content": text, **own}] for text, own in zip(said, more, strict=True)]
    parquet.write_table(pyarrow.table({"prompt": said, **columns}), path)


@pytest.mark.parametrize("messages", [False, True])
@given(rows=TABLES)
@settings(deadline=None, max_examples=40)
def test_a_row_of_a_table_is_what_it_would_be_alone(messages, rows):
    """Neither a bad value nor a column of others reaches it, nor the name that it draws by."""
    listed = list(enumerate(rows))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        client = Client(name="a", data=str(path), reward="length(3)")

        def units(kept):
            write_table(path, kept, messages)
            return dict(open_units(client, 0, 0, "prompt_group", 9).rows)

        whole = units(listed)
        alone = [units([each]) for each in listed]
    assert whole == {name: own for each in alone for name, own in each.items()}
    usable = [row.get("note") not in (b"\xff", b"\xed\xa0\x80") and row.get("day") != 2**31 - 1 for row in rows]
    assert [bool(each) for each in alone] == usable


def test_dates_and_decimals_become_texts(tmp_path):
    row = {"prompt": "a", "day": datetime.date(2024, 2, 3), "sum": Decimal("1.50")}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert read_rows(str(tmp_path / "a.parquet")) == [{"prompt": "a", "day": "2024-02-03", "sum": "1.50"}]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.write_bytes(b"PLANTED"), "cannot be read as a table"),
        (lambda path: parquet.write_table(pyarrow.table({"image": [b"PLANTED"]}), path), "a column 'image' of bytes"),
        (lambda path: path.mkdir(), "is a folder without Parquet files"),
        (
            lambda path: DatasetDict(dict.fromkeys(("test", "train"), Dataset.from_list(ROWS))).save_to_disk(path),
            "holds several splits: name one of the folders in it, test, train",
        ),
    ],
)  # fmt: skip
def test_what_is_no_table_of_texts_is_refused_in_one_sentence(tmp_path, make, sentence):
    path = tmp_path / "t.parquet"
    make(path)
    with pytest.raises(UnusableData, match=sentence) as refusal:
        read_rows(str(path))
    assert str(refusal.value).startswith(str(path))
    assert "PLANTED" not in str(refusal.value)


def test_without_pyarrow_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(UnusableData, match=r"needs pyarrow: install fgrpo-secure\[data\]"):
        read_rows(str(tmp_path / "t.parquet"))
