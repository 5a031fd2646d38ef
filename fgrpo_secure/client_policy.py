"""What a client insists on before it trains: by its own computation, from the plan and its own record alone.

The server's word counts for nothing here. Thresholds are `protocols.member`'s part; this is the part about privacy:
the unit, the shape of the vector, the noise, the room in the ring, and what the round costs at its worst.
"""

from dataclasses import dataclass
from fractions import Fraction

from pydantic import ValidationError

from fgrpo_secure.privacy import accounting, encode, noise
from fgrpo_secure.privacy.encode import Lattice
from fgrpo_secure.round_settings import RoundSettings
from protocols.errors import Refused
from protocols.member import Limits
from protocols.params import Adversary
from protocols.wire import RoundPlan

SCORES = 2  # weight and gain


@dataclass(frozen=True)
class Admitted:
    """A plan that this client takes part in: its settings, its lattice and its worst-case charge (mu squared)."""

    settings: RoundSettings
    lattice: Lattice
    charge: Fraction


@dataclass(frozen=True)
class ClientPolicy:
    """The owner's demands. `unit` is what it must be protected as; the budget is its ledger's."""

    unit: str
    adversary: Adversary
    max_corrupt: float
    max_dropout: float
    min_cohort: int
    min_survivors: int

    def limits(self, last_round: int) -> Limits:
        """The demands on thresholds, for the protocol."""
        return Limits(
            self.adversary, self.max_corrupt, self.max_dropout, self.min_cohort, self.min_survivors, last_round
        )

    def admit(self, plan: RoundPlan, dimension: int) -> Admitted:
        """The plan as this client understands it, or Refused with the public reason.

        `dimension` counts the adapter coordinates that this client really trains in the plan's round.
        """
        try:
            settings = RoundSettings.decode(plan.settings)
        except ValidationError as problem:
            raise Refused(f"the plan's settings are not usable: {problem.error_count()} errors") from None
        if settings.unit != self.unit:
            raise Refused(f"the plan protects unit {settings.unit!r}, this client wants {self.unit!r}")
        if dict(plan.vectors) != {"update": dimension, "scores": SCORES}:
            raise Refused("the plan's vectors are not this client's update and scores")
        lattice = Lattice.build(dimension, settings.clip_norm, SCORES)
        if settings.unit == "none":
            if settings.share_variance != 0:
                raise Refused("the plan asks for noise without a privacy unit")
            charge = Fraction(0)
        else:
            charge = accounting.charge(lattice, settings.share_variance, plan.floor - plan.colluders)
        needed = encode.required_ring_bits(lattice, len(plan.cohort), settings.share_variance)
        if plan.ring_bits < needed:
            raise Refused(f"{plan.ring_bits} ring bits could overflow; {needed} cannot")
        return Admitted(settings, lattice, charge)

    def settled(self, admitted: Admitted, plan: RoundPlan, survivors: int) -> Fraction:
        """The charge at the noise that `survivors` clients really added."""
        if admitted.settings.unit == "none":
            return Fraction(0)
        honest = survivors - plan.colluders
        return accounting.charge(admitted.lattice, admitted.settings.share_variance, honest)


def vectors(values: noise.NoisedVector, dimension: int) -> dict[str, noise.IntegerArray]:
    """The protocol's named vectors of one contribution: the update's coordinates, then the scores'."""
    return {"update": values.values[:dimension], "scores": values.values[dimension:]}
