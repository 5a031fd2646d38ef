"""Which files a round passes through: docs/architecture.md names them, and a profiler counts."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

import fgrpo_secure

ROOT = Path(fgrpo_secure.__file__).parent
ARCHITECTURE = ROOT.parent / "docs" / "architecture.md"
SHARE = 0.9
MOST_FILES = 13
EXPRESSIONS = ("<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>")  # parts of the function that they stand in


def named():
    """The files that the page names as those in which most of a round happens, in its order."""
    (paragraph,) = re.findall(r"<!-- walk -->\n(.*?)<!-- end -->", ARCHITECTURE.read_text(), re.DOTALL)
    return re.findall(r"`([\w/]+\.py)`", paragraph)


def of_package(frame):
    path = frame.f_code.co_filename
    return path[len(str(ROOT)) + 1 :] if path.startswith(f"{ROOT}/") else None


class Walk:
    """Counts calls of the package's functions that its own functions make, by the file of the one called.

    `order` holds each file once, as a round first calls it. What a library calls back counts from the next call on.
    """

    def __init__(self):
        self.calls, self.order = Counter(), {}

    def __call__(self, frame, event, _):
        if (
            event == "call"
            and frame.f_code.co_name not in EXPRESSIONS
            and (inside := of_package(frame))
            and frame.f_back
            and of_package(frame.f_back)
        ):
            self.calls[inside] += 1
            self.order.setdefault(inside)


@pytest.fixture
def walk(trial, trains_once):
    """The second round of eight clients in one process; training is that of the first, and so is not counted."""
    federation, found = trial.federation(), Walk()
    trial.conduct(federation)
    before = sys.getprofile()
    sys.setprofile(found)
    try:
        trial.conduct(federation, 1)
    finally:
        sys.setprofile(before)
    return found


def test_the_files_that_the_map_names_hold_nine_tenths_of_a_rounds_calls_in_the_order_of_the_round(walk):
    files, total = named(), sum(walk.calls.values())
    assert sum(walk.calls[each] for each in files) >= SHARE * total, walk.calls.most_common(20)
    assert len(files) <= MOST_FILES
    assert files == [each for each in walk.order if each in files]
