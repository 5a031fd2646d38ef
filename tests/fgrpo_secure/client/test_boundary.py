"""Whatever is called failure inside an owner's data is zero and full noise outside, and a line for the owner."""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgrpo_secure.client.boundary import UnusableRound, contained
from fgrpo_secure.client.owner import Owner, Unreadable
from fgrpo_secure.errors import UnusableInput


class Unforeseen(BaseException):
    pass


def failing(problem):
    def work():
        torch.set_grad_enabled(False)
        warnings.warn("PLANTED", stacklevel=1)
        sys.stdout.write("PLANTED")
        sys.stderr.write("PLANTED")
        logging.getLogger("transformers").error("PLANTED")
        raise problem

    return work


@pytest.mark.parametrize(
    "problem",
    [
        ValueError("PLANTED"),
        IndexError("PLANTED"),
        RecursionError("PLANTED"),
        MemoryError("PLANTED"),
        SystemExit("PLANTED"),
        GeneratorExit("PLANTED"),
        StopIteration("PLANTED"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "PLANTED"),
        Unforeseen("PLANTED"),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_whatever_is_raised_becomes_one_sentence_with_type_and_place(capfd, problem):
    with pytest.raises(UnusableRound) as caught:
        contained(failing(problem))
    assert str(caught.value).startswith(f"{type(problem).__name__} in test_boundary.py, line ")
    assert "PLANTED" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert capfd.readouterr() == ("", "")
    assert torch.is_grad_enabled()
    assert logging.getLogger("transformers").isEnabledFor(logging.ERROR)


def test_our_own_sentences_are_kept():
    with pytest.raises(UnusableRound, match=r"^rows of one sentence$"):
        contained(failing(UnusableInput("rows of one sentence")))


def test_an_operator_may_interrupt():
    with pytest.raises(KeyboardInterrupt):
        contained(failing(KeyboardInterrupt()))


TEXTS = st.text(st.characters(), max_size=40)  # lone surrogates and line ends among them


@given(lines=st.lists(TEXTS, max_size=5))
@settings(deadline=None)
def test_whatever_a_log_line_quotes_is_one_line_that_can_be_read(lines):
    with tempfile.TemporaryDirectory() as folder:
        owner = owner_with(Path(folder) / "own.log")
        for line in lines:
            owner.write_log(line)
        written = owner.log.read_bytes().decode("utf-8").split("\n")[:-1] if lines else []
    assert len(written) == len(lines)
    for line, kept in zip(lines, written, strict=True):
        assert kept.isprintable()
        assert kept == line or not line.isprintable()


@pytest.mark.parametrize("problem", [OSError(28, "no space left"), PermissionError(13, "denied")])
def test_a_log_that_cannot_be_written_is_seen_by_nobody(tmp_path, monkeypatch, problem):
    def refuses(*_, **__):
        raise problem

    monkeypatch.setattr(Path, "open", refuses)
    owner_with(tmp_path / "own.log").write_log("a unit contributes nothing")


def owner_with(log):
    return Owner(0, "own", Unreadable(), (), 1.0, log)


def test_what_works_comes_back():
    assert contained(lambda: 7) == 7
