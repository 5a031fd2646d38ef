import pytest

from fgrpo_secure.config.schema import Grpo

PROMPTS = ["12+3=", "4-b", "1+1+1+1=", "a"]  # of different lengths: three of them are padded


@pytest.fixture
def prompts():
    return list(PROMPTS)


@pytest.fixture
def settings():
    return Grpo(num_generations=3, max_completion_length=6)
