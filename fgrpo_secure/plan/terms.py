"""What a client insists on before it trains: by its own computation, from the plan and its own record alone.

The server's word counts for nothing here. Thresholds are `protocols.member`'s part; this is the part about privacy:
the unit, the shape of the vector, the noise, the room in the ring, and what the round costs at its worst.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from pydantic import ValidationError

from fgrpo_secure.config.schema import AdaptiveClip
from fgrpo_secure.plan import adaptive_clip
from fgrpo_secure.plan.round_settings import RoundSettings, UnitTerms
from fgrpo_secure.privacy import discrete_gaussian, encode
from fgrpo_secure.privacy.accounting import round_mu_squared
from fgrpo_secure.privacy.encode import IntArray, Lattice
from fgrpo_secure.privacy.noise import MIN_SHARE_VARIANCE, NoisedVector
from protocols.errors import Refused
from protocols.member import Limits
from protocols.params import Adversary
from protocols.recovery import Recovered
from protocols.wire import RoundPlan

LARGEST = Fraction(10**300)  # of a charge that is written down: a server's figures make some that no float holds


@dataclass(frozen=True)
class Admitted:
    """A plan that this client takes part in: its settings, its lattice and its worst-case charge (mu squared)."""

    settings: RoundSettings
    lattice: Lattice
    colluders: int
    charge: Fraction
    fixed_charge: Fraction | None = None

    def settled(self, survivors: int) -> Fraction:
        """mu squared of the round: at the noise that `survivors` clients really added, `colluders` of them known.

        With sampling it is the fixed share of a budget for all rounds: more noise earns no credit.
        """
        if self.fixed_charge is not None:
            return self.fixed_charge
        return self._at_noise_of(survivors)

    def _at_noise_of(self, survivors: int) -> Fraction:
        settings = self.settings
        if settings.unit == "none":
            return Fraction(0)
        alone = settings.aggregation == "plain" or (settings.units is not None and settings.units.mode == "local")
        shares = 1 if alone else survivors - self.colluders
        noise = round_mu_squared(self.lattice.integer_bound, shares * settings.share_variance)
        return settings.releases * (noise + settings.reward_charge)

    def worst_case(self, floor: int) -> Fraction:
        """mu squared of the round with the fewest survivors, for a unit that is in every sample."""
        return self._at_noise_of(floor)


Expected = Callable[[int, int, tuple[float, ...]], RoundSettings]


@dataclass(frozen=True)
class RunTerms:
    """On which terms a client takes part in a run's rounds. `unit` is what it must be protected as; the whole budget
    is its ledger's.

    `max_charge` is the most that one round may cost it (mu squared), which is to say how little noise it accepts:
    without that bound a server could take the budget of a whole run for one round. None without privacy.
    `units` are the terms on which units inside the client take part; `fixed_charge` is what a round costs the ledger
    where the budget was fixed for a whole run of sampled rounds.
    `adaptive_clip` is the rule by which the clip norm may follow what rounds released, from `first_clip_norm` on.
    `post_quantum` demands hybrid key agreement: a server that turns it off is refused.
    `expected` gives the settings of a round (training round, dimension, published shares) as this client's own
    configuration amounts to them; None only where a client knows no configuration.
    """

    unit: str
    max_charge: Fraction | None
    adversary: Adversary
    max_corrupt: float
    max_dropout: float
    min_cohort: int
    min_survivors: int
    post_quantum: bool = False
    aggregation: str = "secure"
    units: UnitTerms | None = None
    fixed_charge: Fraction | None = None
    adaptive_clip: AdaptiveClip | None = None
    first_clip_norm: float | None = None
    expected: Expected | None = None

    def limits(self, run: bytes, today: int) -> Limits:
        """The demands on thresholds, for the protocol, in the run that was joined; `today` in days since 1970-01-01."""
        return Limits(
            self.adversary,
            self.max_corrupt,
            self.max_dropout,
            self.min_cohort,
            self.min_survivors,
            -1,
            today,
            run,
            self.post_quantum,
        )

    def admit(self, plan: RoundPlan, dimension: int) -> Admitted:
        """The plan as this client understands it, or Refused with the public reason.

        `dimension` counts the adapter coordinates that this client really trains in the plan's round.
        """
        settings = settings_of(plan)
        if settings.unit != self.unit:
            raise Refused(f"the plan protects unit {settings.unit!r}, this client wants {self.unit!r}")
        if settings.aggregation != self.aggregation:  # 'plain' would leave out this client's noise
            raise Refused(f"the plan's aggregation is {settings.aggregation!r}, this client's is {self.aggregation!r}")
        if settings.units != self.units:
            raise Refused("the plan lets units take part on other terms than this client's")
        self._check_clip(settings)
        if dict(plan.vectors) != {"update": dimension, "scores": settings.scores}:
            raise Refused("the plan's vectors are not this client's update and scores")
        variance = settings.share_variance
        if (settings.unit == "none") != (variance == 0):
            raise Refused(f"a noise variance of {variance} does not fit the privacy unit {settings.unit!r}")
        if variance and not MIN_SHARE_VARIANCE <= variance <= discrete_gaussian.MAX_VARIANCE:
            raise Refused(f"a noise variance of {variance} is outside what this client can add")
        try:
            lattice = settings.upload_lattice(dimension)
        except (ValueError, OverflowError):  # a rate of 1e-200, say: no figure of a server's may end a host
            raise Refused("the plan's rate, steps and clip norm give no lattice") from None
        largest_noise = discrete_gaussian.largest_sample(settings.upload_variance)
        needed = encode.required_ring_bits(lattice, len(plan.cohort), largest_noise, settings.vectors_per_client)
        if plan.ring_bits < needed:
            raise Refused(f"{plan.ring_bits} ring bits could overflow; {needed} cannot")
        admitted = Admitted(settings, lattice, plan.colluders, Fraction(0), self.fixed_charge)
        self._affordable(admitted.worst_case(plan.floor))
        self._check_settings(settings, dimension)
        return replace(admitted, charge=admitted.settled(plan.floor))

    def _check_settings(self, settings: RoundSettings, dimension: int) -> None:
        """Every figure counts for itself.

        **Why** A charge is a product: one step at an eighth of the variance costs what eight steps at all of it do,
        and a claim over sampled rounds rests on both factors. So each must be the one that this client computes.
        """
        if self.expected is None:
            return
        own = self.expected(settings.training_round, dimension, settings.shares).model_dump()
        offered = settings.model_dump()
        followed = {"clip_norm"} if self.adaptive_clip is not None else set()  # `_check_clip` judged it
        other = sorted(key for key in own if key not in followed and own[key] != offered[key])
        if other:
            raise Refused(f"the plan's settings are not those of the run that this client joined: {', '.join(other)}")

    def _check_clip(self, settings: RoundSettings) -> None:
        """An adaptive clip norm must follow from the published shares by this client's own rule and bounds.

        No noise depends on it: a wrong one costs no privacy, but would let a server silence or unleash everybody.
        """
        rule, first = self.adaptive_clip, self.first_clip_norm
        if (settings.adaptive_clip, settings.first_clip_norm) != (rule, first):
            raise Refused("the plan adapts the clip norm by another rule than this client's")
        if rule is None or first is None:
            if settings.shares:
                raise Refused("the plan tells of clip norms that no rule adapts")
            return
        if len(settings.shares) != settings.training_round:
            raise Refused("the plan's history of the clip norm does not have one share for each round before")
        if not adaptive_clip.agrees(settings.clip_norm, rule, first, settings.shares):
            raise Refused("the plan's clip norm does not follow from the shares that it publishes")

    def _affordable(self, charge: Fraction) -> None:
        if charge > (self.max_charge or 0):
            raise Refused(f"the plan's noise is too weak: mu = {float(min(charge, LARGEST)) ** 0.5:.4g} in one round")


def read(plan: RoundPlan, fixed_charge: Fraction | None) -> Admitted:
    """What an admitted plan settles at: by the plan itself, and by what sampled rounds are charged together."""
    settings = settings_of(plan)
    lattice = settings.upload_lattice(dict(plan.vectors)["update"])
    return Admitted(settings, lattice, plan.colluders, Fraction(0), fixed_charge)


def checked_total(recovered: Recovered, admitted: Admitted) -> IntArray:
    """The sum, shape (d + scores,). Raises SumOutOfBounds if honest survivors and their noise cannot add up to it."""
    total = np.concatenate([recovered.totals["update"], recovered.totals["scores"]])
    settings = admitted.settings
    encode.check_sum(
        total, admitted.lattice, len(recovered.survivors), settings.upload_variance, settings.vectors_per_client
    )
    return total


def vectors(noised: NoisedVector, dimension: int) -> dict[str, IntArray]:
    """The protocol's named vectors of one contribution: the update's coordinates, then the scores'."""
    return {"update": noised.values[:dimension], "scores": noised.values[dimension:]}


def training_round(plan: RoundPlan) -> int:
    """The training round that a plan is for; Refused if its settings cannot be read."""
    return settings_of(plan).training_round


def settings_of(plan: RoundPlan) -> RoundSettings:
    """The settings that a plan carries; Refused if they cannot be read."""
    try:
        found = RoundSettings.decode(plan.settings)
    except ValidationError as problem:
        raise Refused(f"the plan's settings are not usable: {problem.error_count()} errors") from None
    # With spaces, or without a default, the same settings would be another plan, for which a client trains afresh.
    if found.encode() != plan.settings:
        raise Refused("the plan's settings are not in their one form")
    return found
