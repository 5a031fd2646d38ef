"""What is audited: the claim of a configuration, and what one unit's releases are made of in their strongest view.

The view is that of the server with as many colluding clients as the plan assumes, when every round ends with the fewest
survivors: what stands between it and a unit is `honest` noise shares in each release. It knows all other units'
contributions, which only helps it, so they are left out.
"""

from dataclasses import dataclass

from fgrpo_secure.config.schema import Config
from fgrpo_secure.learning.adapters import attach
from fgrpo_secure.learning.models import load
from fgrpo_secure.plan import adapter_shape
from fgrpo_secure.plan.cost import PrivacyPlan
from fgrpo_secure.plan.run_plan import plan
from fgrpo_secure.privacy.encode import Lattice

SERVER_VIEW = (
    "the server and its colluders ({colluders} of the clients), when rounds end with the fewest survivors, {floor}"
)
LOCAL_VIEW = "the server, looking at the noised sum of every local step before it went into an update"
TRUSTED_VIEW = "a reader of the sums of a trusted server"


class NothingToAudit(ValueError):
    """The configuration makes no claim."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One unit's releases: how many, with how much noise from how many, and what is claimed for all of them together.

    `rate`: the chance with which a unit's secret coin lets it into a release; None if it is in all of them.
    """

    unit: str
    epsilon: float
    delta: float
    mu: float
    lattice: Lattice
    releases: int
    honest: int
    colluders: int
    share_variance: int
    ring_bits: int
    rate: float | None
    view: str

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What a figure of this setting rests on besides its own method."""
        inside = () if self.unit == "client" else (f"a {self.unit} takes part in {self.releases} releases at most",)
        return (
            "adjacency is zero-out: a unit's contribution is there, or is replaced by zero",
            "everybody else's contributions are known to the adversary",
            "masks hide single uploads: the sums over clients are looked at, not the protocol",
            *inside,
        )


def setting(privacy: PrivacyPlan) -> Setting:
    """The setting of a plan; NothingToAudit without differential privacy."""
    if privacy.claim is None or privacy.noise is None:
        raise NothingToAudit('privacy.unit is "none": there is no claim to audit')
    local = privacy.units is not None and privacy.units.local
    noise, claim = privacy.noise, privacy.claim
    if local:
        view = LOCAL_VIEW
    elif privacy.trusted_server:
        view = TRUSTED_VIEW
    else:
        view = SERVER_VIEW.format(colluders=noise.colluders, floor=noise.floor)
    return Setting(
        unit=privacy.unit,
        epsilon=claim.epsilon,
        delta=claim.delta,
        mu=claim.mu,
        lattice=privacy.lattice,
        releases=privacy.units.rounds * privacy.units.releases if privacy.units else privacy.rounds_per_client,
        honest=noise.floor - noise.colluders,
        colluders=noise.colluders,
        share_variance=noise.share_variance,
        ring_bits=privacy.ring_bits,
        rate=privacy.units.rate if privacy.units else None,
        view=view,
    )


def of_config(config: Config) -> Setting:
    """The setting of a configuration: its model is loaded for the adapter's dimension, nothing is trained."""
    return setting(plan(config, adapter_shape.of(attach(load(config.model), config.adapter, config.run.seed))))
