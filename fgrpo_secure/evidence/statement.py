"""privacy_statement.json: what a run guarantees, to whom, by what mechanism, under which assumptions, and what not.

Built from public facts and the ledger alone, so that `fgrpo verify` can build the derived parts again. Its form is
published in `privacy_statement.schema.json`.
"""

import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from typing import Any

from fgrpo_secure import __version__
from fgrpo_secure.config import Config
from fgrpo_secure.coupling import SMALL_UNITS
from fgrpo_secure.evidence import exposure, spent
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.evidence.exposure import Cover
from fgrpo_secure.evidence.spent import Terms
from fgrpo_secure.privacy.ledger import Ledger
from fgrpo_secure.privacy.sizing import Claim

FORMAT = "fgrpo-privacy-statement/1"
LIBRARIES = ("torch", "transformers", "peft", "numpy", "cryptography", "pynacl", "opacus", "dp-accounting")
NOT_PROTECTED = (
    "who takes part, when, and who drops out; sizes and times of messages",
    "the truth of contributions: a client can send any vector within the bound on the sum",
    "availability: the server, or more colluders than assumed, can end a session",
    "what several units have in common: groups of k are protected k times less in epsilon",
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
    "privacy loss distributions (dp-accounting) of Gaussians under Poisson sampling by each client's secret coins, "
    "at the rate and noise that were fixed before the run; a charge is a round's share of that budget"
)
ONE_MACHINE = "whoever operates the machine that all clients of an embedded run share sees everything"


@dataclass(frozen=True)
class Origins:
    """Who and what a statement is about: public keys, the roster's digest and the run's identifier, all hex."""

    server: str
    authority: str
    roster_digest: str
    roster_version: int
    ledger: str


def build(
    config: Config,
    facts: Mapping[str, Any],
    summary: Mapping[str, Any],
    origins: Origins,
    ledger: Ledger | None,
    adapter_digest: bytes,
    claim: Claim | None,
    audits: Mapping[str, Audit],
) -> dict[str, Any]:
    """The statement without its signature. `facts` are the plan's, `summary` the run's (both dotted names).

    `claim` is the plan's, None without differential privacy. `audits` are those made before the run ended; later ones
    stand in audit.json alone.
    """
    terms = None if claim is None else Terms.of(claim, config)
    private = facts["privacy.unit"] != "none"
    return {
        "format": FORMAT,
        "run": {
            "name": config.run.name,
            "rounds": summary["rounds"],
            "clients": summary["clients"],
            "stopped": summary["stopped"],
            "reproducible_entropy": config.run.entropy == "seeded",
            "adapter_digest": adapter_digest.hex(),
        },
        "origins": vars(origins),
        "unit": facts["privacy.unit"],
        "adjacency": "zero-out: a unit's contribution is replaced by zero" if private else None,
        "claims": claims(facts, ledger, terms) if terms else None,
        "mechanism": _mechanism(config, facts, terms) if terms else None,
        "rounds": releases(ledger),
        "composition": (SAMPLED if terms.sampling else FILTER) if terms else None,
        "assumptions": _assumptions(config, facts),
        "server_saw": exposure.rows(
            Cover.CHARGED if private else Cover.MASKED, post_quantum=config.aggregation.post_quantum
        ),
        "not_protected": not_protected(config, private),
        "audits": [audit.facts() for audit in audits.values()],
        "versions": versions(),
        "ledger": None if ledger is None else {"size": ledger.size(), "root": ledger.root().hex()},
    }


def not_protected(config: Config, private: bool) -> list[str]:
    """What no claim of this run covers."""
    quantum = SIGNATURES if config.aggregation.post_quantum else CLASSICAL
    inside = (OWN_CLIENT,) if config.privacy.unit in SMALL_UNITS else ()
    return [*NOT_PROTECTED, *inside, quantum, ONE_MACHINE, *(() if private else (WITHOUT_PRIVACY,))]


def claims(facts: Mapping[str, Any], ledger: Ledger | None, terms: Terms) -> dict[str, Any]:
    """Both claims: planned before the run, and spent according to the ledger, by the unit that spent most."""
    delta = facts["privacy.delta"]
    epsilon_spent = None if ledger is None else spent.epsilon(ledger, terms, delta)
    return {
        "server": {
            "against": "the server and its colluders, over everything they see in the whole run",
            "epsilon": facts["privacy.epsilon_server"],
            "epsilon_spent": epsilon_spent,
            "delta": delta,
            "mu": facts["privacy.mu_server"],
            "epsilon_replace_one": facts["privacy.epsilon_replace_one"],
        },
        "release": {
            "against": "a reader of the released models",
            "epsilon": facts["privacy.epsilon_release"],
            "epsilon_spent": epsilon_spent,
            "delta": delta,
        },
    }


def releases(ledger: Ledger | None) -> list[dict[str, Any]]:
    """Every session in the ledger's order: its round, outcome, charge and the noise that was really there."""
    if ledger is None:
        return []
    found: dict[str, dict[str, Any]] = {}
    for entry in ledger.entries():
        if entry["kind"] == "intent":
            session = str(entry["session"])
            found[session] = {"session": session, "round": entry["round"], "outcome": "open", **_noise(entry)}
        elif entry["kind"] in ("settled", "aborted"):
            kept = found[str(entry["session"])]
            kept.update({"outcome": entry["kind"], **_noise(entry), "survivors": entry.get("survivors")})
    return list(found.values())


def versions() -> dict[str, str]:
    """What computed the run."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"fgrpo-secure": __version__, "python": platform.python_version(), **libraries}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a signed statement."""
    text = resources.files("fgrpo_secure.evidence").joinpath("privacy_statement.schema.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _noise(entry: Mapping[str, Any]) -> dict[str, Any]:
    charge = Fraction(entry["charge"])
    return {"charge": entry["charge"], "noise_multiplier": None if charge == 0 else 1 / math.sqrt(charge)}


def _mechanism(config: Config, facts: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    return {
        "name": LOCAL if facts["privacy.mode"] == "local" else DISTRIBUTED,
        "mode": facts["privacy.mode"],
        "clip_norm": config.privacy.clip_norm,
        "adaptive_clip": config.privacy.adaptive_clip and config.privacy.adaptive_clip.model_dump(),
        "noise_multiplier": facts["privacy.noise_multiplier"],
        "share_variance": facts["privacy.share_variance"],
        "rounds_per_client": facts["privacy.rounds_per_client"],
        "units_per_client": facts["privacy.units_per_client"],
        "rounds_per_unit": facts["privacy.rounds_per_unit"],
        "releases_per_round": config.federation.local_steps if facts["privacy.mode"] == "local" else 1,
        "reward_noise_multiplier": config.weighting.reward_noise_multiplier,
        **terms.stated(),
        "randomness": "AES-256-CTR under operating system keys"
        if config.run.entropy == "os"
        else "seeded: not private",
    }


def _assumptions(config: Config, facts: Mapping[str, Any]) -> dict[str, Any]:
    names: Sequence[str] = ("adversary", "colluders", "quorum", "threshold", "graph", "neighbours", "minimum_survivors")
    return {
        **{name: facts[f"aggregation.{name}"] for name in names},
        "max_corrupt": config.aggregation.max_corrupt,
        "max_dropout": config.aggregation.max_dropout,
        "honest_noise": (
            "none: each client adds all of its noise itself"
            if facts["privacy.mode"] == "local"
            else "at least minimum_survivors - colluders survivors added their noise share"
        ),
        "trusted": "the roster's authority, each owner's own machine, and the cryptography named in protocols/SPEC.md",
    }
