"""A data owner's own file, `client-policy.toml`: what it insists on, whatever a server or a configuration says.

A trial writes one for every owner, from the plan of its first run, and never touches it again: the owner edits it,
and from the next start on it is obeyed. Every rule is checked against the signed plan of each round and the owner's
own ledger. A refusal names the rule, the plan's figure and the owner's: public facts, nothing about data.
"""

import tomllib
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fgrpo_secure.config.files import ConfigError, dump_tables, parse_as
from fgrpo_secure.config.schema import Config, Count, Fraction01, Section
from fgrpo_secure.plan import division
from fgrpo_secure.plan.cost import PrivacyPlan
from fgrpo_secure.plan.round_settings import time_for_training
from fgrpo_secure.plan.terms import LARGEST, Admitted, RunTerms
from fgrpo_secure.privacy.accounting import Slack
from fgrpo_secure.privacy.noise import MIN_SHARE_VARIANCE
from fgrpo_secure.privacy.odometer import Delta, Odometer
from fgrpo_secure.privacy.sizing import SESSIONS_PER_ROUND, Claim
from fgrpo_secure.storage.owners_folder import POLICIES
from fgrpo_secure.storage.run_directory import write_durably
from protocols.errors import Refused
from protocols.params import COMPLETE_UP_TO, Adversary, refuse_weaker
from protocols.wire import RoundPlan

FILE = "client-policy.toml"
DIGITS = 6  # of written figures, rounded so that the plan they come from is allowed
LARGEST_EPSILON = 1e4

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Floor = Annotated[int, Field(ge=0)]


class Trust(Section):
    """Whom and what the owner trusts."""

    authority: Digest = Field(description="public key (hex) that must have signed the roster; never the server's")
    models: tuple[Digest, ...] = Field(min_length=1, description="digests (hex) of the base models it may train")
    adversary: Literal["honest_but_curious", "lying_server"] = Field(
        description="'lying_server' refuses plans that trust the server; 'honest_but_curious' takes both"
    )
    post_quantum: bool = Field(False, description="true refuses key agreement that a quantum computer could undo")
    aggregation: Literal["secure", "plain"] = Field(
        "secure", description="'plain' lets a server have its vector without mask or noise, as baselines do"
    )
    max_corrupt: Fraction01 = Field(description="fraction of the roster that it assumes may side with the server")
    max_dropout: Fraction01 = Field(description="the largest fraction of a cohort whose loss a round may be built for")


class Rounds(Section):
    """How many others a round must have, and how much of the owner it may hold."""

    min_cohort: Floor = Field(description="the fewest clients that a round may be planned with")
    min_survivors: Floor = Field(description="the fewest clients that a sum may be opened over")
    min_quorum: Floor = Field(description="the fewest signatures (T) that must agree on who survived")
    min_threshold: Floor = Field(description="the fewest holders (t) that can open a share together")
    max_weight: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="its own weight never rises above it; plans whose least weight is above it are refused"
    )
    max_repeats: Floor = Field(
        2, description="sessions of a run that it joins again after its vector left and no sum came of it"
    )
    max_unmasked: Count = Field(
        32, description="sessions of one training round that it joins and that end before they ask for its vector"
    )


class Protection(Section):
    """What the owner's data may cost, in all runs together."""

    unit: Literal["client", "subject", "prompt_group", "none"] = Field(
        description="what must be protected: 'client', 'subject', 'prompt_group', or nothing with 'none'"
    )
    epsilon: Annotated[float, Field(gt=0, le=LARGEST_EPSILON)] | None = Field(
        None,
        description="the most to spend per unit in all runs together, at all servers; needed unless unit is 'none'",
    )
    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="the delta at which epsilon is meant")
    min_noise_multiplier: Annotated[float, Field(gt=0)] | None = Field(
        None, description="the least noise of a round with the fewest survivors: its deviation over the norm bound"
    )
    max_sessions: Count = Field(description="sessions that may ever be charged to it, failed ones that leaked included")
    max_releases: Count = Field(1, description="releases that one unit may be in within a session")
    entropy: Literal["os", "seeded"] = Field(
        "os",
        description="where its keys and noise come from, whatever a run's configuration says: 'seeded' lets that one's "
        "run.entropy count, from which everybody can compute them",
    )
    max_cohort: Count = Field(description="the most clients of a session: the budget's arithmetic allows for so many")
    max_dimension: Count = Field(description="the longest vector that it sends, scores included")

    @model_validator(mode="after")
    def complete(self) -> "Protection":
        given = [self.epsilon, self.delta, self.min_noise_multiplier]
        if self.unit != "none" and None in given:
            raise ValueError("'epsilon', 'delta' and 'min_noise_multiplier' are needed unless unit is 'none'")
        if self.unit == "none" and given != [None, None, None]:
            raise ValueError("unit 'none' has no 'epsilon', 'delta' or 'min_noise_multiplier': remove them")
        return self

    @property
    def slack(self) -> Slack:
        """What all allowed sessions together can cost beyond Gaussian differential privacy."""
        # By what the file allows, not by what one run plans: the budget is for all runs together.
        releases = self.max_sessions * self.max_releases
        return Slack.of(releases, self.max_dimension, self.max_cohort, MIN_SHARE_VARIANCE)

    def admit(self, plan: RoundPlan, admitted: Admitted, sessions: int, claim: Claim | None) -> None:
        """The rules of this table, for `ClientPolicy.admit`; `sessions` were charged so far, in any run."""
        settings = admitted.settings
        # Equal, not "at least": units of different kinds protect different people, and none is stronger.
        if settings.unit != self.unit:
            raise Refused(f"privacy.unit: the plan protects {settings.unit!r}, this client wants {self.unit!r}")
        _at_most("privacy.max_cohort", "a cohort", len(plan.cohort), self.max_cohort)
        _at_most("privacy.max_dimension", "vectors", sum(length for _, length in plan.vectors), self.max_dimension)
        _at_most("privacy.max_releases", "releases", settings.releases, self.max_releases)
        # The budget's arithmetic allows for so many releases: one more, and its slack is no bound.
        if sessions >= self.max_sessions:
            raise Refused(f"privacy.max_sessions: this client has taken part in all {self.max_sessions} it allows")
        if claim is not None and claim.sampling is not None:
            self._admit_whole(claim)
        least, charge = self.min_noise_multiplier, admitted.worst_case(plan.floor)
        # At the fewest survivors, in fractions: a plan that is right on average and weak at its floor is refused.
        if least is not None and charge * Fraction(least) ** 2 > 1:
            given = float(min(charge, LARGEST)) ** -0.5
            raise Refused(f"privacy.min_noise_multiplier: the plan has {given:.6g}, this client wants {least:g}")

    def _admit_whole(self, claim: Claim) -> None:
        """Rounds with secret sampling are accounted together: less than all of them is no smaller budget."""
        if claim.epsilon > (self.epsilon or 0) or claim.delta > (self.delta or 0):
            raise Refused(
                f"privacy.epsilon: the run's sampled rounds cost epsilon {claim.epsilon:.6g} at delta {claim.delta:g}, "
                f"this client allows {self.epsilon or 0:g} at {self.delta or 0:g}"
            )


class Rewards(Section):
    """What one call of the owner's own reward function may use. Inside a client with units, one call is one unit's."""

    seconds: Annotated[float, Field(gt=0, le=86_400)] = Field(
        60.0, description="a call that takes longer is ended: its unit contributes zero, the others go on"
    )
    memory_mib: Annotated[int, Field(ge=64)] = Field(8192, description="memory of its process, likewise")


@dataclass(frozen=True)
class Known:
    """What a client knows beside the plan: whether its authority stands behind the roster, how many that enrols, and
    in how many sessions it took part so far, in any run; what the run claims as a whole, where it is charged; how many
    reward functions it has."""

    authority_signed: bool
    enrolled: int
    sessions: int
    claim: Claim | None
    rewards: int = 1


class ClientPolicy(Section):
    """The whole file."""

    trust: Trust
    rounds: Rounds
    privacy: Protection
    rewards: Rewards = Rewards()

    def admit(self, plan: RoundPlan, admitted: Admitted, known: Known) -> None:
        """Returns if the owner's rules allow the round, else raises Refused naming the rule.

        Whether the budget has room is the ledger's to say.
        """
        if not known.authority_signed:
            raise Refused("trust.authority: the roster does not go back to this client's authority")
        # A server's own model could be made to memorise: its gradients show the prompts that it was fed.
        if dict(plan.context).get("model", b"").hex() not in self.trust.models:
            raise Refused("trust.models: the plan's base model is not among those this client trains")
        if admitted.settings.aggregation == "plain":
            if self.trust.aggregation != "plain":
                raise Refused("trust.aggregation: this client takes part in secure aggregation only")
        else:
            self._admit_thresholds(plan, known.enrolled)
        _at_least("rounds.min_cohort", "a cohort", len(plan.cohort), self.rounds.min_cohort)
        _at_least("rounds.min_survivors", "a floor of survivors", plan.floor, self.rounds.min_survivors)
        # A smaller weight would lie outside the range that the hidden scalar is encoded in: the sum of weights would be
        # wrong.
        if (least := admitted.settings.weighting.min_weight) > self.rounds.max_weight:
            raise Refused(
                f"rounds.max_weight: the plan's least weight is {least:g}, "
                f"this client's largest is {self.rounds.max_weight:g}"
            )
        self._admit_deadline(admitted, known.rewards)
        self.privacy.admit(plan, admitted, known.sessions, known.claim)

    def budget(self) -> Fraction | None:
        """The sum of mu^2 that `epsilon` at `delta` allows over all runs; None where nothing is protected.

        Raises ValueError if no mechanism can be within them.
        """
        private = self.privacy
        if private.epsilon is None or private.delta is None:
            return None
        return Fraction(private.slack.mu(private.epsilon, self._planned(private.delta))) ** 2

    def _parts(self, delta: float) -> Delta:
        """`delta` by what may fail. Raises ValueError if sparse graphs alone may use it up."""
        # Only a policy that admits the sparse graph pays for its chance of failing.
        sparse = self.trust.adversary == "honest_but_curious" and self.privacy.max_cohort > COMPLETE_UP_TO
        return Delta.split(delta, self.privacy.max_sessions if sparse else 0)

    def _planned(self, delta: float) -> float:
        """What is left of `delta` for the whole budget."""
        return self._parts(delta).planned

    def reading(self, spent: Fraction, budget: Fraction) -> float:
        """The epsilon of a ledger with this budget that shows `spent`, at this file's delta; ValueError where nothing
        is charged.

        **Why** an odometer: whoever sees the sums chooses when a run stops, and then the epsilon of the charges so far
        is no guarantee. Its levels are parts of this file's budget. A ledger under another one (secret sampling, whose
        charges are shares of a run's; a file that was edited) reads as if all of it were spent.
        """
        own = self.budget()
        if own is None or self.privacy.epsilon is None or self.privacy.delta is None:
            raise ValueError("privacy.unit 'none' has no epsilon")
        meter = Odometer(own, self._parts(self.privacy.delta), self.privacy.slack)
        if spent and budget != own:
            return max(self.privacy.epsilon, meter.read(max(spent, budget)))
        return meter.read(spent)

    def budget_for(self, claim: Claim) -> Fraction | None:
        """`budget`; or where units are sampled in secret the run's own, whose shares mean nothing in another run."""
        return self.budget() if claim.sampling is None else claim.budget

    def _admit_deadline(self, admitted: Admitted, rewards: int) -> None:
        """**Why** Where the unit lies inside the client, the deadline must never strike because of one unit: then that
        unit alone would have changed what all others contribute."""
        seconds, units = admitted.settings.training_seconds, admitted.settings.units
        if seconds is None or units is None:
            return
        # The most that all units may take one after the other, by public bounds: the true times are data. In each of
        # its steps a unit's completions are shown to every reward function.
        calls = units.units_per_client * max(1, rewards) * admitted.settings.releases
        if time_for_training(seconds) < calls * self.rewards.seconds:
            raise Refused(
                f"rewards.seconds: {calls} calls, of each reward for each of {units.units_per_client} units and each "
                f"step, at up to {self.rewards.seconds:g} seconds do not fit into the {time_for_training(seconds):g} "
                f"seconds that the plan's training deadline of {seconds} leaves"
            )

    def _admit_thresholds(self, plan: RoundPlan, enrolled: int) -> None:
        trust = self.trust
        if trust.adversary == "lying_server" and plan.adversary is not Adversary.LYING_SERVER:
            raise Refused("trust.adversary: the plan trusts the server to be honest, this client does not")
        if trust.post_quantum and not plan.post_quantum:
            raise Refused("trust.post_quantum: the plan agrees on keys without ML-KEM-768")
        try:
            refuse_weaker(plan.parameters, enrolled, trust.max_corrupt, trust.max_dropout)
        except Refused as refusal:
            raise Refused(f"trust.max_corrupt, trust.max_dropout: {refusal.reason}") from None
        _at_least("rounds.min_quorum", "a quorum", plan.quorum, self.rounds.min_quorum)
        _at_least("rounds.min_threshold", "a threshold", plan.threshold, self.rounds.min_threshold)


def _at_least(rule: str, what: str, offered: int, least: int) -> None:
    if offered < least:
        raise Refused(f"{rule}: {what} of {offered} is below this client's {least}")


def _at_most(rule: str, what: str, offered: int, most: int) -> None:
    if offered > most:
        raise Refused(f"{rule}: {what} of {offered} is above this client's {most}")


def from_plan(config: Config, privacy: PrivacyPlan, demands: RunTerms, authority: bytes, model: bytes) -> ClientPolicy:
    """The policy that allows what `privacy` plans and nothing with less noise, a larger budget or another model.

    Its floors on clients are half of the plan's, so that a run can go on after a revocation; what each round must have
    until then, every client computes by itself.
    """
    claim, everybody = privacy.claim, config.clients_total
    parameters = division.least(privacy.parameters, division.plan(config, privacy, everybody, everybody))
    charge = None if claim is None else demands.max_charge
    draft = ClientPolicy(
        trust=Trust(
            authority=authority.hex(),
            models=(model.hex(),),
            adversary=demands.adversary.value,
            post_quantum=demands.post_quantum,
            aggregation=config.aggregation.mode,
            max_corrupt=config.aggregation.max_corrupt,
            max_dropout=config.aggregation.max_dropout,
        ),
        rounds=Rounds(
            min_cohort=min(privacy.parameters.cohort // 2, parameters.cohort),
            min_survivors=min(privacy.parameters.floor // 2, parameters.floor),
            min_quorum=min(privacy.parameters.quorum // 2, parameters.quorum),
            min_threshold=min(privacy.parameters.threshold // 2, parameters.threshold),
        ),
        privacy=Protection(
            unit=config.privacy.unit,
            epsilon=None if claim is None else config.privacy.epsilon or claim.epsilon,
            delta=None if claim is None else claim.delta,
            min_noise_multiplier=None if charge is None else _digits(float(charge) ** -0.5, ROUND_FLOOR),
            max_sessions=SESSIONS_PER_ROUND * privacy.rounds_per_client,
            max_releases=privacy.units.releases if privacy.units else 1,
            entropy=config.run.entropy,
            max_cohort=config.clients_total,
            max_dimension=privacy.longest,
        ),
    )
    return draft if claim is None or claim.sampling is not None else _affording(draft, claim.mu)


def _affording(draft: ClientPolicy, mu: float) -> ClientPolicy:
    """`draft` with an epsilon that its planned rounds surely fit in: rounding must not end a run one round early."""
    budget, private = draft.budget(), draft.privacy
    if budget is None or private.delta is None or budget >= Fraction(mu) ** 2 * (1 + Fraction(1, 10**13)):
        return draft
    needed = private.slack.epsilon(mu * (1 + 1e-12), draft._planned(private.delta))
    enough = private.model_copy(update={"epsilon": _digits(needed, ROUND_CEILING)})
    return draft.model_copy(update={"privacy": enough})


def _digits(value: float, rounding: str) -> float:
    return float(Context(prec=DIGITS, rounding=rounding).create_decimal(Decimal(value)))


def write_missing(folder: Path, names: list[str], policy: ClientPolicy) -> None:
    """Give every owner without a policy file its own; never touch one that exists."""
    for name in names:
        path = path_of(folder, name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(path, dump_tables(policy, *_heading(name)).encode(), mode=0o600)


def path_of(folder: Path, name: str) -> Path:
    """Where owner `name` keeps its policy."""
    return folder / POLICIES / name / FILE


def load(folder: Path, name: str) -> ClientPolicy:
    """The policy of owner `name`. Raises as `read`."""
    return read(path_of(folder, name))


def read(path: Path) -> ClientPolicy:
    """The policy in a file; ConfigError naming file, key and what is allowed."""
    try:
        table = tomllib.loads(path.read_text())
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}; the owner takes no part without it") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a UTF-8 text file") from None
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{path} is not valid TOML: {problem}") from None
    return parse_as(ClientPolicy, table, str(path))


def check_all(folder: Path, names: list[str]) -> None:
    """Returns if every owner's file can be used; ConfigError for the first that cannot."""
    for name in names:
        policy = load(folder, name)
        try:
            policy.budget()
        except ValueError as problem:
            raise ConfigError(f"{path_of(folder, name)}: privacy.epsilon: {problem}") from None


def _heading(name: str) -> tuple[str, ...]:
    return (
        f"What {name} insists on before it takes part in a round. Its owner edits this file; no server can change it.",
        "It was written from the first run's plan and allows exactly that run. It is read at every start and resume.",
        "docs/how-to/client-policy.md explains every rule.",
    )
