"""The next token's distribution equals that of the library's own processors, setting by setting and all together."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.grpo import sampling

LOGITS = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(2))
IDS = torch.randint(40, (5, 12), generator=torch.Generator().manual_seed(3))
SEEN = torch.zeros(5, 40, dtype=torch.bool).scatter(1, IDS, True)


def theirs(settings):
    processors = [
        RepetitionPenaltyLogitsProcessor(settings.repetition_penalty),
        TemperatureLogitsWarper(settings.temperature),
        *([TopKLogitsWarper(settings.top_k)] if settings.top_k else []),
        *([TopPLogitsWarper(settings.top_p)] if settings.top_p < 1 else []),
        *([MinPLogitsWarper(settings.min_p)] if settings.min_p else []),
    ]
    return torch.softmax(LogitsProcessorList(processors)(IDS, LOGITS.clone()), dim=-1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"top_k": 7},
        {"top_k": 100},
        {"min_p": 0.1},
        {"top_p": 0.6},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.8, "temperature": 0.6, "top_k": 9, "top_p": 0.8, "min_p": 0.05},
    ],
)
def test_probabilities_are_the_librarys(changes):
    settings = Grpo(**changes)
    ours = sampling.weights(LOGITS, SEEN, settings)
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), theirs(settings))
    assert (ours == 0).any() == bool(
        changes.keys() - {"repetition_penalty", "temperature"} and changes != {"top_k": 100}
    )
