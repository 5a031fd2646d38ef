"""Pass rates and rewards measured again, from the released adapter, the base model and the public problems.

The same problems and the same draws as in the run: on the same machine and libraries the figures are equal; elsewhere
rounding may turn a few samples, which is what the tolerance is for.
"""

import math
from collections.abc import Mapping

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.evidence.statement_form import Results, Statement
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.pass_rates import Exam, Examination
from fgrpo_secure.storage.run_directory import RunDirectory

ERRORS = 4.0  # standard errors of the mean of as many samples, beyond which two measurements differ
ROUNDING = 1e-9
REWARDS = ("reward_initial", "reward_final")


class Differs(ValueError):
    """What was measured again is not what the statement asserts; the sentence gives both."""


def measure_again(directory: RunDirectory, stated: Statement) -> str:
    """What was measured, in words. Raises Differs, or the errors of a model or data that are not here."""
    config = config_file.load(str(directory.config))
    examination = Examination.prepare(config)
    base = models.load(config.model)
    if stated.run.base_model_digest not in (None, base.digest.hex()):
        raise Differs(f"the base model here has digest {base.digest.hex()[:16]}, the run's another")
    untrained = adapters.attach(base, config.adapter, config.run.seed)
    before = examination.take(untrained)
    released = config.adapter.model_copy(update={"init_from": str(directory.adapter)})
    after = examination.take(adapters.attach(models.load(config.model), released, config.run.seed))
    allowed = _compare(_measured(before, after), stated.asserted.results, config, examination)
    return (
        f"pass rate {before.overall.pass_rate:.1%} before and {after.overall.pass_rate:.1%} after, greedy "
        f"{before.overall.greedy:.1%} and {after.overall.greedy:.1%}, reward {before.overall.reward:.3f} and "
        f"{after.overall.reward:.3f}, {allowed}"
    )


def _compare(measured: Mapping[str, float], said: Results, config: Config, examination: Examination) -> str:
    """How closely the figures agree, in words; raises Differs."""
    allowed, odd = _tolerance(config, examination), False
    exact = config.evaluation.reward is None  # other rewards have a scale of their own, so that no tolerance is known
    for name, value in measured.items():
        claimed = getattr(said, name)
        if claimed is None:
            raise Differs(f"{name} is {value:.3f} when measured again; the server states none")
        if abs(value - claimed) > allowed and (exact or name not in REWARDS):
            raise Differs(f"{name} is {value:.3f} when measured again; the server asserts {claimed:.3f}")
        odd |= abs(value - claimed) > ROUNDING
    if not odd:
        return "exactly as asserted"
    return f"as asserted within {allowed:.3f}" + ("" if exact else ", rewards not compared")


def _measured(before: Exam, after: Exam) -> dict[str, float]:
    """By the names that a statement has for them."""
    return {
        "pass_rate_initial": before.overall.pass_rate,
        "pass_rate_final": after.overall.pass_rate,
        "pass_rate_greedy_initial": before.overall.greedy,
        "pass_rate_greedy_final": after.overall.greedy,
        "reward_initial": before.overall.reward,
        "reward_final": after.overall.reward,
    }


def _tolerance(config: Config, examination: Examination) -> float:
    """Of a rate between 0 and 1, by the number of public problems."""
    problems = sum(map(len, examination.problems.values()))
    return ERRORS * 0.5 / math.sqrt(max(1, problems)) if config.evaluation.samples else 1.0
