"""What a budget buys, and what to change in a configuration whose noise leaves too little to learn from.

Every figure that is named here was planned again with it: following one piece of advice, and nothing else, gives a
plan that can learn.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context, Decimal
from functools import partial

from pydantic import ValidationError

from fgrpo_secure.config.schema import Config, Section
from fgrpo_secure.plan import run_plan
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.plan.cost import CAN_LEARN, SAFE_RATIO, InfeasiblePlan, PrivacyPlan
from protocols.params import Infeasible

MOST_ROUNDS = 1_000_000
MOST_CLIENTS = 10_000
LARGEST_EPSILON = 100.0  # no advice goes beyond an epsilon that protects nobody
DIGITS = 3
STEP = 1.02  # from one budget that is tried to the next

Planned = Callable[[int], PrivacyPlan]


@dataclass(frozen=True)
class Change:
    """One way to make a configuration learn: `overrides` are what `--set` takes."""

    says: str
    overrides: tuple[str, ...]


def rounds_for_epsilon(config: Config, adapter: AdapterShape, epsilon: float) -> tuple[Config, PrivacyPlan]:
    """The most rounds whose claim stays within `epsilon`, at the noise multiplier that `config` states or amounts to.

    InfeasiblePlan if one round costs more, naming what it costs; ValueError if the run has no privacy.
    """
    if not 0 < epsilon < math.inf:
        raise InfeasiblePlan(f"epsilon = {epsilon:g} is no budget", "any epsilon above 0")
    claim = run_plan.plan(config, adapter).claim
    if claim is None:
        raise InfeasiblePlan("rounds without differential privacy cost nothing", "privacy.unit = 'client'")
    noise = config.privacy.noise_multiplier or claim.noise_multiplier

    def planned(rounds: int) -> PrivacyPlan:
        return run_plan.plan(_with_noise(config, noise, rounds), adapter)

    def within(rounds: int) -> bool:
        found = _attempt(planned, rounds)
        return found is not None and found.claim is not None and found.claim.epsilon <= epsilon

    if not within(1):
        cost = planned(1).claim
        least = math.inf if cost is None else cost.epsilon
        raise InfeasiblePlan(
            f"one round at noise_multiplier = {noise:.4g} costs more than epsilon = {epsilon:g}",
            f"epsilon = {_digits(least, ROUND_CEILING):g}",
        )
    rounds = _largest(within, MOST_ROUNDS)
    return _with_noise(config, noise, rounds), planned(rounds)


def changes(config: Config, adapter: AdapterShape, found: PrivacyPlan) -> tuple[Change, ...]:
    """What would let a plan that is not safe to learn do so, one setting each; nothing if it can learn already."""
    if found.verdict == CAN_LEARN or found.claim is None:
        return ()
    larger_budget = _more_epsilon if config.privacy.sampling_rate is None else partial(_more_epsilon_sampled, found)
    ways = (_more_clients, _fewer_dimensions, larger_budget, _more_rounds)
    return tuple(change for way in ways if (change := way(config, adapter)) is not None)


def _more_clients(config: Config, adapter: AdapterShape) -> Change | None:
    def planned(times: int) -> PrivacyPlan:
        return run_plan.plan(_multiplied(config, times), adapter)

    times = _least(planned, MOST_CLIENTS // config.clients_total)
    if times is None or not _usable(_multiplied(config, times)):
        return None
    counts = [f"client.{client.name}.count={client.count * times}" for client in config.client]
    stated = config.federation
    counts += [f"federation.clients={stated.clients * times}"] if stated.clients else []
    counts += [f"federation.clients_per_round={config.cohort * times}"] if stated.clients_per_round else []
    return Change(f"{config.cohort * times:,} clients per round", tuple(counts))


def _fewer_dimensions(config: Config, adapter: AdapterShape) -> Change | None:
    for rank in range(config.adapter.rank - 1, 0, -1):
        if _learns(_attempt(lambda rank: run_plan.plan(config, adapter.with_rank(rank)), rank)):
            return Change(f"adapter.rank = {rank}", (f"adapter.rank={rank}",))
    return None


def _more_epsilon(config: Config, adapter: AdapterShape) -> Change | None:
    """Only where the budget is stated: where the noise is, more rounds spend more."""
    low = config.privacy.epsilon
    if low is None:
        return None

    def planned(steps: int) -> PrivacyPlan:
        return run_plan.plan(_with(config, "privacy", epsilon=_step(low, steps)), adapter)

    steps = _least(planned, math.ceil(math.log(LARGEST_EPSILON / low, STEP)))
    return None if steps is None else _budget(_step(low, steps))


def _more_epsilon_sampled(found: PrivacyPlan, config: Config, adapter: AdapterShape) -> Change | None:
    """The same where units are sampled, and the noise of each budget is a search of its own: how much less noise than
    `found` has would do is known without one, and so is what that costs.
    """
    claim, useful = found.claim, found.useful_dimension
    if config.privacy.epsilon is None or claim is None or claim.sampling is None or not useful:
        return None
    times = SAFE_RATIO * found.trained / useful  # as many dimensions: they grow with the charge of a release
    rewards = claim.sampling.multiplier**-2 - claim.noise_multiplier**-2
    less = replace(claim.sampling, multiplier=(times * claim.noise_multiplier**-2 + max(0.0, rewards)) ** -0.5)
    # The coarse figure is too large where releases are many, but not by so much; the fine one takes seconds here.
    if less.rough_epsilon(claim.parts.planned) > 2 * LARGEST_EPSILON:
        return None
    epsilon = _digits(less.epsilon(claim.parts.planned), ROUND_CEILING)
    if epsilon > LARGEST_EPSILON or not _learns(
        _attempt(lambda _: run_plan.plan(_with(config, "privacy", epsilon=epsilon), adapter), 1)
    ):
        return None
    return _budget(epsilon)


def _budget(epsilon: float) -> Change:
    return Change(f"epsilon = {epsilon:g}", (f"privacy.epsilon={epsilon:g}",))


def _more_rounds(config: Config, adapter: AdapterShape) -> Change | None:
    """Only where the noise is fixed: a fixed epsilon pays for more rounds with more noise in each."""
    if config.privacy.noise_multiplier is None:
        return None

    def planned(rounds: int) -> PrivacyPlan:
        return run_plan.plan(_with(config, "federation", rounds=rounds), adapter)

    rounds = _least(planned, MOST_ROUNDS)
    claim = None if rounds is None else planned(rounds).claim
    if rounds is None or claim is None or claim.epsilon > LARGEST_EPSILON:
        return None
    return Change(f"{rounds:,} rounds (epsilon = {claim.epsilon:.3g})", (f"federation.rounds={rounds}",))


def _least(planned: Planned, most: int) -> int | None:
    """The least number from 1 at which a plan can learn; None if none up to `most` does."""

    def too_few(number: int) -> bool:
        return not _learns(_attempt(planned, number))

    if most < 1 or not too_few(1):
        return None if most < 1 else 1
    found = _largest(too_few, most) + 1
    return found if found <= most and not too_few(found) else None


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` at which `holds`; it holds at 1 and, once it does not, never again."""
    low, high = 1, 2
    while high <= most and holds(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _attempt(planned: Planned, number: int) -> PrivacyPlan | None:
    try:
        return planned(number)
    except (Infeasible, InfeasiblePlan):
        return None


def _usable(config: Config) -> bool:
    """Whether the configuration would be accepted as it is: its unit may not allow copies of a client."""
    try:
        Config.model_validate(config.model_dump(exclude_unset=True))
    except ValidationError:
        return False
    return True


def _learns(found: PrivacyPlan | None) -> bool:
    return found is not None and found.verdict == CAN_LEARN


def _step(low: float, steps: int) -> float:
    return _digits(low * STEP**steps, ROUND_CEILING)


def _digits(value: float, rounding: str) -> float:
    if not math.isfinite(value):
        return value
    return float(Context(prec=DIGITS, rounding=rounding).create_decimal(Decimal(value)))


def _with(config: Config, section: str, **values: object) -> Config:
    part: Section = getattr(config, section)
    return config.model_copy(update={section: part.model_copy(update=values)})


def _with_noise(config: Config, noise: float, rounds: int) -> Config:
    fixed = _with(config, "privacy", epsilon=None, noise_multiplier=noise)
    return _with(fixed, "federation", rounds=rounds)


def _multiplied(config: Config, times: int) -> Config:
    clients = tuple(client.model_copy(update={"count": client.count * times}) for client in config.client)
    federation = config.federation
    more = {
        "clients": federation.clients and federation.clients * times,
        "clients_per_round": federation.clients_per_round and federation.clients_per_round * times,
    }
    return _with(config.model_copy(update={"client": clients}), "federation", **more)
