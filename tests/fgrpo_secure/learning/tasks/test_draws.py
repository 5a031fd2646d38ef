"""Draws: the same everywhere, uniform, and independent between labels."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.learning.tasks.draws import Draws


def test_draws_are_the_same_on_every_machine() -> None:
    draws = Draws("golden", 7)
    assert [draws.below(1000) for _ in range(5)] == [930, 243, 428, 682, 932]


def test_labels_that_join_to_the_same_text_give_different_streams() -> None:
    streams = [Draws(*label) for label in (("a", "bc"), ("ab", "c"), ("a", 1), ("a", "1"))]
    assert len({tuple(stream.below(1 << 60) for _ in range(3)) for stream in streams}) == 4


def test_a_stream_goes_on_past_its_first_block_without_repeating() -> None:
    draws = Draws("long")
    seen = [draws.below(1 << 62) for _ in range(3000)]
    assert len(set(seen)) == len(seen)


def test_values_are_uniform() -> None:
    draws, count, cells = Draws("uniform"), 20_000, 10
    found = Counter(draws.below(cells) for _ in range(count))
    chi_square = sum((found[cell] - count / cells) ** 2 for cell in range(cells)) / (count / cells)
    assert chi_square < 30  # 9 degrees of freedom: passed by chance in all but 4e-4 of seeds; the label is fixed


def test_chance_comes_true_as_often_as_it_says() -> None:
    draws, count, probability = Draws("chance"), 20_000, 0.3
    happened = sum(draws.chance(probability) for _ in range(count))
    assert abs(happened - count * probability) < 4 * math.sqrt(count * probability * (1 - probability))


@given(st.integers(-50, 50), st.integers(0, 50), st.integers())
def test_between_includes_both_ends_and_nothing_outside(low: int, width: int, seed: int) -> None:
    draws = Draws("between", seed)
    assert all(low <= draws.between(low, low + width) <= low + width for _ in range(20))
    assert {Draws("ends", place).between(1, 2) for place in range(40)} == {1, 2}


def test_every_order_is_equally_likely_after_a_shuffle() -> None:
    draws = Draws("shuffle")
    found: Counter[tuple[int, ...]] = Counter()
    for _ in range(6000):
        items = [0, 1, 2]
        draws.shuffle(items)
        found[tuple(items)] += 1
    assert len(found) == 6
    assert max(abs(times - 1000) for times in found.values()) < 4 * math.sqrt(6000 / 6 * 5 / 6)
