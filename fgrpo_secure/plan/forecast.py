"""What a plan's noise leaves of the learning, and which settings make more of the same budget.

Three formulas, each held against runs (docs/explanation/learning.md; `python -m benchmarks direction` and `epsilon`):

* how exact one contribution's direction is, as the mean squared cosine to the direction of all data of its kind:
  c^2 = P / (P + K + L / G) for P prompts with G completions each. Updates are longer than the clip, so that nothing
  but their direction counts;
* what noise leaves of the gain: f = U c^2 / (U c^2 + H d), with U the useful dimension and d the trained coordinates;
* the server's step: f times the one that is best without noise, as a noisy sum is shrunk by its share of signal.

K, L, H and the best step belong to the shipped model and its tasks; for another model they are a first guess.
"""

from dataclasses import dataclass

from fgrpo_secure.config.schema import Config
from fgrpo_secure.plan.advice import Change
from fgrpo_secure.plan.cost import PrivacyPlan

PROMPTS_AT_HALF = 9.0  # K: prompts, each with completions without end, at which half of a direction is exact
COMPLETIONS_AT_HALF = 47.0  # L: what a single completion for each prompt adds to that
NOISE_AT_HALF = 1.6  # H: U c^2 over trained coordinates at which half of the gain is lost
BEST_TRAVEL = 48.0  # rounds x server step x clip norm that is best without noise, with alternating factors
FEWEST_COMPLETIONS = (
    4  # with 2 a group's own mean and deviation are mostly chance: less exact than 8 x 4 at the same work
)
NOTICED = 1.25  # ratio of steps below which five seeds see no difference


@dataclass(frozen=True)
class Forecast:
    """An estimate, no promise: of a contribution's exactness and of what noise leaves of the gain."""

    exactness: float
    kept: float

    def facts(self) -> dict[str, object]:
        """By public name."""
        return {"forecast.exactness": round(self.exactness, 3), "forecast.kept": round(self.kept, 2)}


def exactness(prompts: int, completions: int) -> float:
    """c^2 of one contribution, in (0, 1)."""
    return prompts / (prompts + PROMPTS_AT_HALF + COMPLETIONS_AT_HALF / completions)


def kept(useful: float | None, trained: int, exact: float) -> float:
    """f: the share of the gain without noise that is left; 1 without privacy."""
    if useful is None:
        return 1.0
    return useful * exact / (useful * exact + NOISE_AT_HALF * trained)


def of(config: Config, privacy: PrivacyPlan) -> Forecast:
    """The forecast of a plan."""
    exact = exactness(config.grpo.prompts_per_step, config.grpo.num_generations)
    return Forecast(exact, kept(privacy.useful_dimension, privacy.trained, exact))


def improvements(config: Config, privacy: PrivacyPlan) -> tuple[Change, ...]:
    """Settings that make more of the same budget; only where a client's whole update is what is clipped.

    None of them costs privacy. Each stands for itself, but the server's step, which goes with the present settings.
    """
    if config.privacy.unit != "client" or privacy.claim is None or config.privacy.adaptive_clip is not None:
        return ()
    now = of(config, privacy).kept
    ways = (_shape(config, privacy, now), _prompts(config, privacy, now), _factors(config), _step(config, now))
    return tuple(change for change in (*ways, _rounds(config)) if change is not None)


def _shape(config: Config, privacy: PrivacyPlan, now: float) -> Change | None:
    """More prompts with fewer completions each: the same work, a more exact direction."""
    prompts, completions = config.grpo.prompts_per_step, config.grpo.num_generations
    more = prompts * completions // FEWEST_COMPLETIONS
    if completions <= FEWEST_COMPLETIONS or more <= prompts:
        return None
    then = kept(privacy.useful_dimension, privacy.trained, exactness(more, FEWEST_COMPLETIONS))
    return Change(
        f"{more} prompts with {FEWEST_COMPLETIONS} completions instead of {prompts} with {completions}: "
        f"keeps {then:.0%} of the gain without noise instead of {now:.0%}",
        (f"grpo.prompts_per_step={more}", f"grpo.num_generations={FEWEST_COMPLETIONS}"),
    )


def _prompts(config: Config, privacy: PrivacyPlan, now: float) -> Change | None:
    prompts, completions = config.grpo.prompts_per_step, config.grpo.num_generations
    then = kept(privacy.useful_dimension, privacy.trained, exactness(2 * prompts, completions))
    if then < now + 0.05:
        return None
    return Change(
        f"{2 * prompts} prompts instead of {prompts}: keeps {then:.0%} instead of {now:.0%}, for twice the time",
        (f"grpo.prompts_per_step={2 * prompts}",),
    )


def _factors(config: Config) -> Change | None:
    if config.adapter.factors == "alternate":
        return None
    return Change(
        "factors that alternate: twice the gain of 'ffa' in our runs, and exact sums, which 'full' has not",
        ("adapter.factors=alternate",),
    )


def _step(config: Config, now: float) -> Change | None:
    """Only where the best step without noise is known: on the shipped model."""
    if config.model.path != "builtin" or config.adapter.factors != "alternate" or config.server.optimizer != "sgd":
        return None
    best = BEST_TRAVEL * now / config.federation.rounds / config.privacy.clip_norm * (1 - config.server.momentum)
    best = float(f"{best:.2g}")
    if 1 / NOTICED < best / config.server.learning_rate < NOTICED:
        return None
    return Change(f"server.learning_rate = {best:g}, for this much noise", (f"server.learning_rate={best:g}",))


def _rounds(config: Config) -> Change | None:
    """At a fixed epsilon the noise of all rounds together depends on rounds x step alone."""
    rounds, step = config.federation.rounds, config.server.learning_rate
    if config.privacy.epsilon is None or config.federation.max_rounds_per_client is not None:
        return None
    return Change(
        f"{2 * rounds} rounds at half the server's step: the same noise in the end, twice the data, for twice the time",
        (f"federation.rounds={2 * rounds}", f"server.learning_rate={step / 2:g}"),
    )
