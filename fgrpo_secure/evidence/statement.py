"""privacy_statement.json: what a run guarantees, to whom, by what mechanism, under which assumptions, and what not.

`statement` is a pure function: the server calls it to write the file, `fgrpo verify` calls it on what it checked, and
compares the whole document. There is no list of compared fields, and none that could be forgotten.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fgrpo_secure.config.schema import Config
from fgrpo_secure.config.unit_rules import SMALL_UNITS
from fgrpo_secure.evidence import exposure
from fgrpo_secure.evidence import statement_form as form
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.evidence.derived_plans import Planner
from fgrpo_secure.evidence.exposure import Cover
from fgrpo_secure.evidence.history import History, Round
from fgrpo_secure.evidence.statement_form import FORMAT as FORMAT
from fgrpo_secure.evidence.statement_form import schema as schema
from fgrpo_secure.ledger import privacy_spent
from fgrpo_secure.ledger.privacy_spent import Terms
from fgrpo_secure.storage.opening import Opening
from protocols.params import Parameters

NOT_PROTECTED = (
    "who takes part, when, and who drops out; sizes and times of messages",
    "which sessions each client was charged for: the ledger's entries and the clients' signatures on them say so",
    "the truth of contributions: a client can send any vector within the bound on the sum",
    "availability: the server, or more colluders than assumed, can end a session",
    "what several units have in common: a group of k has k times the mu, and more than k times the epsilon",
    "one person's data with several clients, which is such a group: across machines nothing finds it",
    "data on a client's own machine, against whoever controls that machine",
)
CLASSICAL = "an adversary that records traffic today and has a quantum computer later: post-quantum keys were off"
SIGNATURES = "signatures are classical: a quantum computer during a session could take part in it as anybody"
WITHOUT_PRIVACY = (
    "differences between the sums of several rounds, or a model crafted for the purpose: there is no differential "
    "privacy in this run"
)
OWN_CLIENT = "a unit, against the client that holds its data and trains on it"
DISTRIBUTED = "distributed discrete Gaussian inside secure aggregation"
LOCAL = "discrete Gaussian added by each client alone, at every local step, before secure aggregation"
FILTER = (
    "fully adaptive Gaussian differential privacy filter: the sum of mu squared over all sessions, failed ones "
    "included, stays within the budget; a discrete Gaussian of variance V is charged as a Gaussian of V - 4"
)
SAMPLED = (
    "privacy loss distributions (dp-accounting) of Gaussians under secret Poisson sampling by each client, "
    "at the rate and noise that were fixed before the run; a charge is a round's share of that budget"
)
ONE_MACHINE = "whoever operates the machine that all clients of an embedded run share sees everything"
TRUSTED = "the roster's authority, each owner's own machine, and the cryptography named in protocols/SPEC.md"
AGAINST_SERVER = "the server and its colluders, over everything they see in the whole run"
AGAINST_READER = "a reader of the released models"


@dataclass(frozen=True)
class Basis:
    """What a statement is computed from: all of it signed by clients, or fixed by configuration and rosters.

    `history` is None in a run without differential privacy, which charges nothing. `notes` says how many notes there
    are and how many clients signed each at least. `authority` is the key that the run began with.
    """

    opening: Opening
    planner: Planner
    history: History | None
    notes: tuple[int, int]
    authority: bytes
    adapter_digest: bytes

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.planner.config

    @property
    def terms(self) -> Terms | None:
        """How charges are read; None where nothing is charged. Sampling's noise is the plan's own, never a copy."""
        claim = self.planner.first.claim
        return None if claim is None else Terms.of(claim, self.config)

    def epsilon_after(self, entries: int) -> float | None:
        """What the ledger's first entries amount to; None without differential privacy."""
        claim, terms = self.planner.first.claim, self.terms
        if claim is None or terms is None or self.history is None:
            return None
        return privacy_spent.epsilon_of_entries(self.history.entries[:entries], self.history.budget, terms)


def statement(
    basis: Basis, results: form.Results, audits: tuple[Audit, ...], unsigned: form.Unsigned | None
) -> form.Statement:
    """The statement without its signature: a pure function of what is signed and fixed, and of what is asserted."""
    config, private = basis.config, basis.config.privacy.unit != "none"
    terms, history = basis.terms, basis.history
    cover = Cover.CHARGED if private else Cover.MASKED
    return form.Statement(
        format="fgrpo-privacy-statement/2",
        run=_run(basis, unsigned),
        origins=_origins(basis),
        unit=config.privacy.unit,
        adjacency="zero-out: a unit's contribution is replaced by zero" if private else None,
        claims=_claims(basis),
        mechanism=_mechanism(basis, terms) if terms else None,
        rounds=tuple(map(_session, history.rounds)) if history else (),
        composition=(SAMPLED if terms.sampling else FILTER) if terms else None,
        assumptions=_assumptions(basis),
        server_saw=seen(cover, config.aggregation.post_quantum),
        not_protected=not_protected(config, private, basis.opening.earlier),
        versions=basis.opening.versions,
        ledger=None if history is None else _ledger(basis, history),
        asserted=form.Asserted(
            operator=config.deployment.curators,
            started=basis.opening.started,
            ended=ended(basis),
            unsigned=unsigned if history is None else None,
            results=results,
            audits=audits,
        ),
    )


def ended(basis: Basis) -> str | None:
    """When the run ended by the server's clock, as its ledger's last entry has it."""
    closing = basis.history.closing if basis.history else None
    return closing.ended if closing else None


def seen(released: Cover, post_quantum: bool) -> tuple[form.Seen, ...]:
    """What the server saw, row by row."""
    rows = exposure.rows(released, post_quantum)
    return tuple(form.Seen(name=each["name"], cover=Cover(each["cover"]), meaning=each["meaning"]) for each in rows)


def not_protected(config: Config, private: bool, earlier: Sequence[str]) -> tuple[str, ...]:
    """What no claim of this run covers; `earlier` as the run's opening has it."""
    quantum = SIGNATURES if config.aggregation.post_quantum else CLASSICAL
    inside = (OWN_CLIENT,) if config.privacy.unit in SMALL_UNITS else ()
    before = [f"whoever is in data that training started from: {sentence}" for sentence in earlier]
    return (*NOT_PROTECTED, *inside, *before, quantum, ONE_MACHINE, *(() if private else (WITHOUT_PRIVACY,)))


def progress(basis: Basis, unsigned: form.Unsigned | None) -> form.Unsigned:
    """How many rounds of training ended, and why no more did: by the ledger, or by the server's word without one."""
    if basis.history is None:
        return unsigned or form.Unsigned(rounds=0, stopped=None)
    closing = basis.history.closing
    return form.Unsigned(rounds=len(basis.history.finished), stopped=(closing.stopped or None) if closing else None)


def _run(basis: Basis, unsigned: form.Unsigned | None) -> form.RunPart:
    config, history, done = basis.config, basis.history, progress(basis, unsigned)
    loaded = history.rounds[0].sessions[0].context if history and history.rounds else {}
    return form.RunPart(
        name=config.run.name,
        identity=basis.opening.run,
        rounds=done.rounds,
        rounds_planned=config.federation.rounds,
        clients=config.clients_total,
        stopped=done.stopped,
        reproducible_entropy=config.run.entropy == "seeded",
        adapter_digest=basis.adapter_digest.hex(),
        base_model=config.model.path,
        base_model_digest=loaded.get("model"),
        tokenizer_digest=loaded.get("tokenizer"),
    )


def _origins(basis: Basis) -> form.Origins:
    newest = basis.planner.rosters[-1]
    return form.Origins(
        server=basis.opening.server,
        authority=basis.authority.hex(),
        roster_digest=newest.digest.hex(),
        roster_version=newest.version,
        ledger=f"fgrpo-secure/ledger/{basis.opening.server}/{basis.opening.run}",
    )


def _ledger(basis: Basis, history: History) -> form.LedgerPart:
    notes, fewest = basis.notes
    return form.LedgerPart(size=history.size, root=history.root, notes=notes, signed_by_at_least=fewest)


def _claims(basis: Basis) -> form.Claims | None:
    facts, claim, history = basis.planner.first.facts(), basis.planner.first.claim, basis.history
    amount = None if history is None else basis.epsilon_after(history.size)
    if claim is None or amount is None:
        return None
    return form.Claims(
        server=form.ServerClaim(
            against=AGAINST_SERVER,
            epsilon=claim.epsilon,
            epsilon_spent=amount,
            delta=claim.delta,
            mu=claim.mu if claim.sampling is None else None,
            epsilon_replace_one=claim.epsilon_replace_one,
            epsilon_group_of_2=claim.for_group(2),
            epsilon_group_of_5=claim.for_group(5),
            delta_parts=claim.delta_parts,
        ),
        release=form.ReleaseClaim(
            against=AGAINST_READER, epsilon=_number(facts, "epsilon_release"), epsilon_spent=amount, delta=claim.delta
        ),
    )


def _session(found: Round) -> form.SessionPart:
    charge = found.charge
    survivors = found.survivors
    return form.SessionPart(
        session=found.sessions[0].name,
        session_number=found.sessions[0].plan.session_number,
        training_round=found.training_round,
        outcome=found.outcome,  # type: ignore[arg-type]  # a kind of entry, which the ledger's own rules check
        charge=f"{charge.numerator}/{charge.denominator}",
        noise_multiplier=noise_multiplier(charge),
        survivors=sum(map(len, survivors.values())) if survivors else None,
    )


def noise_multiplier(charge: Fraction) -> float | None:
    """The noise of one sum that costs `charge`; None where nothing was released."""
    return None if charge == 0 else 1 / math.sqrt(charge)


def _mechanism(basis: Basis, terms: Terms) -> form.Mechanism:
    config, facts = basis.config, basis.planner.first.facts()
    local = facts["privacy.mode"] == "local"
    sampling = terms.sampling
    return form.Mechanism(
        name=LOCAL if local else DISTRIBUTED,
        mode="local" if local else "distributed",
        clip_norm=config.privacy.clip_norm,
        adaptive_clip=form.clip_rule(config.privacy.adaptive_clip),
        noise_multiplier=_number(facts, "noise_multiplier"),
        share_variance=int(_number(facts, "share_variance")),
        rounds_per_client=int(_number(facts, "rounds_per_client")),
        units_per_client=int(_number(facts, "units_per_client")),
        rounds_per_unit=int(_number(facts, "rounds_per_unit")),
        releases_per_round=config.federation.local_steps if local else 1,
        reward_noise_multiplier=config.weighting.reward_noise_multiplier,
        unit_blocks=terms.blocks,
        budgets=terms.budgets,
        sampling=None
        if sampling is None
        else form.Sampling(rate=sampling.rate, noise_multiplier=sampling.multiplier, releases=sampling.releases),
        randomness="AES-256-CTR under operating system keys" if config.run.entropy == "os" else "seeded: not private",
    )


def _number(facts: Any, name: str) -> Any:
    return facts[f"privacy.{name}"]


def _assumptions(basis: Basis) -> form.Assumptions:
    """The weakest of the plan that the run began with and of every session: rosters may shrink on the way."""
    config, first = basis.config, basis.planner.first
    rounds = basis.history.rounds if basis.history else ()
    plans = [each.plan.parameters for found in rounds for each in found.sessions]
    every: Sequence[Parameters] = [first.parameters, *plans]
    local = first.units is not None and first.units.local
    return form.Assumptions(
        adversary=first.parameters.adversary.value,
        colluders=max(each.colluders for each in every),
        quorum=min(each.quorum for each in every),
        threshold=min(each.threshold for each in every),
        graph="complete" if all(each.graph == "complete" for each in every) else "sparse",
        neighbours=min(each.neighbours for each in every),
        minimum_survivors=min(each.floor for each in every),
        max_corrupt=config.aggregation.max_corrupt,
        max_dropout=config.aggregation.max_dropout,
        honest_noise=(
            "none: each client adds all of its noise itself"
            if local
            else "at least minimum_survivors - colluders survivors added their noise share"
        ),
        trusted=TRUSTED,
    )
