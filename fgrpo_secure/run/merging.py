"""A run's adapter merged into its base model: a folder that transformers and vLLM load as any model, with a card."""

import json
from pathlib import Path

import msgspec

from fgrpo_secure.config.schema import Config
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.evidence.statement_form import Statement
from fgrpo_secure.learning import models
from fgrpo_secure.run import released
from fgrpo_secure.storage import signed_file
from fgrpo_secure.storage.run_directory import RunDirectory


class UnusableFolder(UnusableInput):
    """There is no room for what is made of the run."""


def merge(directory: RunDirectory, out: Path, model: str | None) -> Path:
    """Write the merged model, its tokenizer and a card to `out`, a new folder; `model` is where the base lies here.

    The sum is made in float32 and saved in the run's dtype. Raises UnusableFolder, NotReleased, or what the
    model's files raise.
    """
    if out.exists():
        raise UnusableFolder(f"{out} exists already; name a folder that does not")
    config = released.configuration(directory)
    exact = {"dtype": "float32", "device": "cpu"} | ({} if model is None else {"path": model})
    base = models.load(config.model.model_copy(update=exact))
    adapted = released.trained(directory, config, base)
    merged = adapted.model.merge_and_unload().to(models.DTYPES[config.model.dtype])
    with models.quietly():
        merged.save_pretrained(out)
    base.tokenizer.save_pretrained(out)
    stated = (
        msgspec.convert(signed_file.read(directory.statement), Statement) if directory.statement.is_file() else None
    )
    (out / "README.md").write_text(card(config, json.loads(directory.summary.read_text("utf-8")), stated), "utf-8")
    return out


def card(config: Config, summary: dict[str, object], stated: Statement | None) -> str:
    """A model card, filled in from the run's own record; it promises nothing that the run's documents do not.

    `stated` is the run's privacy statement; None for a baseline without secure aggregation, which has none.
    """
    digest = "not stated" if stated is None else stated.run.base_model_digest
    verified = "There is nothing signed of it."
    if stated is not None:
        keys = f"--authority {stated.origins.authority} --server {stated.origins.server}"
        verified = (
            f"Run {stated.run.identity}. Whoever has its directory checks the rest:\n\n    fgrpo verify DIR {keys}"
        )
    tasks = ", ".join(sorted({client.task for client in config.client if client.task})) or "data of the clients' own"
    claim = "none: the run had no differential privacy"
    if summary.get("privacy.epsilon_release") is not None:
        release, server, delta = (summary[f"privacy.{key}"] for key in ("epsilon_release", "epsilon_server", "delta"))
        claim = (
            f"epsilon {release} for each {summary['privacy.unit']} against whoever has this model, {server} against "
            f"the server, delta {delta}"
        )
    before, after = ([summary[f"pass_rate.{key}{when}"] for key in ("", "greedy_")] for when in ("initial", "final"))
    return f"""---
base_model: {config.model.path}
tags: [federated-learning, grpo, differential-privacy]
---

# {config.deployment.name or config.run.name}

Trained by federated GRPO with secure aggregation (fgrpo_secure); a LoRA adapter, merged into its base model.

| | |
|---|---|
| base model | {config.model.path}, digest {digest} |
| trained on | {tasks} |
| rounds, clients | {summary["rounds"]}, {summary["clients"]} |
| pass rate on public problems | {before[0]} before, {after[0]} after; greedy {before[1]} and {after[1]} |
| differential privacy | {claim} |
| intended use | {config.deployment.intended_use} |
| licence | that of the base model; the publisher states any other |

Figures of pass rates are the server's word; `fgrpo eval DIR` measures them again. {verified}
"""
