"""Log-probabilities of padded groups equal a plain forward's in families of every kind; `families.py` has all."""

import pytest

from fgrpo_secure.learning.grpo import forward
from tests.fgrpo_secure.learning import families
from tests.fgrpo_secure.learning.families import TOLERANCE, judge, small

CACHE = ["llama", "qwen3", "gemma2", "mistral", "gpt_neox", "phi3", "bloom", "mixtral", "deepseek_v3"]
ROWS = ["mamba", "jamba", "lfm3", "moshi"]  # recurrent, hybrid, and one whose cache is read wrongly

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's, about families as small as these


@pytest.mark.parametrize("family", [*CACHE, *ROWS])
def test_every_kind_of_causal_model_is_read_as_a_plain_forward_reads_it(family):
    read, error = judge(small(family))
    assert read == ("cache" if family in CACHE else "rows")
    assert error <= TOLERANCE


def test_a_cache_that_is_read_wrongly_beyond_a_window_would_be_found():
    assert judge(small("moshi"), from_cache=True)[1] > 0.1


def test_a_model_that_reads_in_both_directions_is_not_causal(monkeypatch):
    assert forward.is_causal(small("bert"))
    monkeypatch.setitem(families.SMALL, "is_decoder", False)
    assert not forward.is_causal(small("bert"))
    assert judge(small("bert")) == ("refused", 0.0)
