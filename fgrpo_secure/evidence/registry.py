"""deployment_registry.yaml: the run as a record for the OpenDP deployments registry.

Schema: https://github.com/opendp/deployments-registry-data, schemas/deployments-schema.yaml, commit 3e9c812
(2026-07-15). The record is made from the statement and the configuration's `deployment` section alone.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]  # has no types of its own

from fgrpo_secure.config.schema import Deployment

SCHEMA_COMMIT = "3e9c812"


def build(statement: Mapping[str, Any], deployment: Deployment) -> dict[str, Any]:
    """The record, as a draft: its authors complete and submit it."""
    private = statement["unit"] != "none"
    return {
        "url_slug": re.sub(r"[^a-z0-9]+", "-", statement["run"]["name"].lower()).strip("-") or "run",
        "status": "Draft",
        "tier": 3 if private else 1,
        "deployment": {
            "basic": _basic(statement, deployment),
            **(_privacy(statement) if private else {}),
            "administrative": {"registry_authors": list(deployment.curators), "notes": _notes(statement)},
        },
    }


def dump(record: Mapping[str, Any]) -> str:
    """YAML in one fixed form."""
    return str(yaml.safe_dump(dict(record), sort_keys=True, allow_unicode=False, width=120))


def _basic(statement: Mapping[str, Any], deployment: Deployment) -> dict[str, Any]:
    basic: dict[str, Any] = {
        "name": deployment.name or statement["run"]["name"],
        "data_curators": list(deployment.curators),
        "intended_use": deployment.intended_use,
        "data_product_type": "Machine learning model",
        "data_product_region": deployment.region,
        "description": (
            "A low-rank adapter of a language model, trained by federated reinforcement learning (GRPO) over "
            f"{statement['run']['clients']} data owners in {statement['run']['rounds']} rounds with secure aggregation."
        ),
        "publication_date": deployment.publication_date,
    }
    if deployment.sector is not None:
        basic["data_product_sector"] = deployment.sector
    return basic


def _privacy(statement: Mapping[str, Any]) -> dict[str, Any]:
    claim, mechanism = statement["claims"]["server"], statement["mechanism"]
    return {
        "dp_variant": {
            "variant_name": "Approximate DP",
            "data_domain": "The prompts, completions and rewards of every data owner in the signed roster.",
            "unprotected_quantities": "; ".join(statement["not_protected"]) + ".",
        },
        "privacy_loss": {
            "privacy_unit": f"One {statement['unit'].replace('_', ' ')}",
            "privacy_unit_details": f"Adjacency is {statement['adjacency']}.",
            "privacy_parameters": {"epsilon": claim["epsilon"], "delta": claim["delta"]},
            "privacy_parameters_details": (
                f"Planned bound against the server for the whole run; the ledger shows {claim['epsilon_spent']}. "
                + (
                    f"It is Gaussian differential privacy with mu = {claim['mu']}."
                    if mechanism["sampling"] is None
                    else "It rests on secret Poisson sampling, by privacy loss distributions."
                )
            ),
        },
        "deployment_model": _model(statement),
        "accounting": {
            "post_processing": "The server divides the noisy sum and applies its optimiser to it.",
            "composition": statement["composition"],
        },
        "implementation": _implementation(statement, mechanism),
    }


def _model(statement: Mapping[str, Any]) -> dict[str, Any]:
    assumed = statement["assumptions"]
    return {
        "model_name": "Federated",
        "model_name_details": f"{statement['mechanism']['name']}; the server sees noisy sums.",
        "actors": (
            f"A server ({str(assumed['adversary']).replace('_', ' ')}) with up to {assumed['colluders']} colluding "
            "data owners; an authority that enrols data owners; readers of the released adapter."
        ),
        "release_type": "Many releases",
        "release_type_details": "The server learns a noisy sum in every round; the budget covers all rounds together.",
        "data_source_type": "Static",
        "access_type": "Non-interactive",
    }


def _implementation(statement: Mapping[str, Any], mechanism: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "preprocessing_and_hyperparameter_tuning": (
            "Evaluation uses a public problem set. Tuning on private data outside this run is not accounted for here."
        ),
        "mechanisms": (
            f"{mechanism['name']}: L2 clip {mechanism['clip_norm']}, noise multiplier {mechanism['noise_multiplier']}. "
            "Integers throughout, so that no floating point value carries noise; "
            f"randomness: {mechanism['randomness']}. fgrpo-secure {statement['versions']['fgrpo-secure']}."
        ),
        "justification": (
            "A discrete Gaussian is accounted as a Gaussian of slightly smaller variance (proof in "
            "docs/explanation/privacy.md); noise is sized for the fewest survivors less all colluders."
        ),
    }


def _notes(statement: Mapping[str, Any]) -> str:
    ledger = statement["ledger"]
    root = "none" if ledger is None else ledger["root"]
    return f"Record made for schema commit {SCHEMA_COMMIT}. Ledger root: {root}."
