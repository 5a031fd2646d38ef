"""Who was in the training data? What a reader of a model, or a server, measures to tell, and how well it may work.

The score is the gain in expected reward, the strongest known feature against models trained by GRPO (DIBA, arXiv
2511.14045): the probability of the right answer under the trained model less that under the base model, exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr  # type: ignore[import-untyped]  # scipy ships no types

from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo.local_update import completion_logp
from fgrpo_secure.learning.grpo.rollouts import Rollouts
from fgrpo_secure.learning.tasks.files import Row
from fgrpo_secure.privacy.encode import FloatArray

Z_95 = 1.6448536269514722  # one-sided


@dataclass(frozen=True, slots=True)
class Area:
    """An area under the ROC curve, with the upper end of its one-sided 95 % interval."""

    value: float
    upper: float


def expected_rewards(adapted: AdaptedModel, rows: Sequence[Row]) -> FloatArray:
    """The probability of each row's answer, shape (rows,): its expected reward if right answers alone pay 1."""
    tokenizer = adapted.base.tokenizer
    asked = tokenizer([str(row["prompt"]) for row in rows], padding=True, return_tensors="pt")
    answers = [
        [*tokenizer(str(row["answer"]), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for row in rows
    ]
    width = max(map(len, answers))
    ids = torch.tensor([answer + [tokenizer.pad_token_id] * (width - len(answer)) for answer in answers])
    mask = torch.tensor([[1] * len(answer) + [0] * (width - len(answer)) for answer in answers])
    ended = torch.zeros(len(answers), dtype=torch.bool)
    said = Rollouts(asked["input_ids"], asked["attention_mask"], ids, mask, ended, answers, [""] * len(answers))
    with torch.no_grad():
        logp = (completion_logp(adapted, said, 1.0) * mask).sum(dim=1)
    result: FloatArray = logp.double().exp().numpy()
    return result


def area(members: FloatArray, others: FloatArray) -> Area:
    """How often a member scores above somebody else; ties count half.

    The standard error is that of Hanley and McNeil 1982, which takes scores to be independent.
    """
    above = np.subtract.outer(members, others)
    value = float(np.mean(above > 0) + np.mean(above == 0) / 2)
    one, two = value / (2 - value), 2 * value**2 / (1 + value)
    spread = (len(members) - 1) * (one - value**2) + (len(others) - 1) * (two - value**2) + value * (1 - value)
    return Area(value, min(1.0, value + Z_95 * math.sqrt(spread / (len(members) * len(others)))))


def allowed(mu: float) -> float:
    """The largest expected area against mu-GDP under zero-out, if chance decided who is a member.

    **Why** A pair is ordered rightly with chance A. Exchanging the roles of the two moves the sums by at most two
    contributions, 2 mu, and turns A into 1 - A; a test of 2 mu-GDP with false alarms 1 - A has power at most
    Phi(z(1 - A) + 2 mu), so A <= Phi(mu).
    """
    return float(ndtr(mu))
