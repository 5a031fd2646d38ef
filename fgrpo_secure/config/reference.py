"""Every key of a configuration with its type, default, allowed values, meaning, and the keys it goes together with.

Read off the schema, so that nothing here can differ from what is accepted: `fgrpo config` prints it, and
docs/reference/configuration.md is made from it. Only `RELATED` is written by hand.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic_core import PydanticUndefined

from fgrpo_secure.config.schema import AdaptiveClip, Client, Config
from fgrpo_secure.config.section import Section

# What to look at when a key is changed. Read in both directions: see `related`.
RELATED: Mapping[str, tuple[str, ...]] = {
    "run.seed": ("run.entropy",),
    "model.path": ("adapter.targets", "model.dtype", "grpo.max_completion_length"),
    "model.device": ("engine.processes",),
    "adapter.rank": ("adapter.alpha", "adapter.targets", "privacy.epsilon"),
    "adapter.rslora": ("adapter.alpha", "adapter.rank"),
    "adapter.dropout": ("privacy.unit", "grpo.num_iterations", "grpo.beta"),
    "adapter.factors": ("server.learning_rate", "weighting.denominator"),
    "adapter.init_from": ("adapter.rank", "adapter.targets", "model.path"),
    "federation.rounds": ("privacy.epsilon", "server.learning_rate", "federation.max_rounds_per_client"),
    "federation.clients": ("client.count", "engine.kind"),
    "federation.training_seconds": ("federation.step_seconds", "engine.kind"),
    "evaluation.tasks": ("evaluation.data", "client.task"),
    "federation.clients_per_round": ("federation.schedule", "aggregation.max_dropout", "aggregation.max_corrupt"),
    "federation.schedule": ("federation.max_rounds_per_client",),
    "federation.local_steps": ("privacy.mode", "privacy.unit"),
    "grpo.num_generations": ("grpo.prompts_per_step", "grpo.scale_rewards"),
    "grpo.prompts_per_step": ("privacy.unit", "weighting.gain_prompts"),
    "grpo.loss_type": ("privacy.unit", "grpo.scale_rewards", "grpo.mask_truncated_completions"),
    "grpo.epsilon": ("grpo.epsilon_high", "grpo.importance_sampling_level", "grpo.num_iterations"),
    "grpo.beta": ("grpo.use_bias_correction_kl",),
    "grpo.num_iterations": ("privacy.unit",),
    "grpo.learning_rate": ("grpo.optimizer", "federation.local_steps", "privacy.clip_norm"),
    "grpo.optimizer": ("privacy.unit", "privacy.mode"),
    "grpo.max_grad_norm": ("privacy.unit", "privacy.clip_norm"),
    "grpo.max_completion_length": ("grpo.mask_truncated_completions",),
    "grpo.temperature": ("grpo.top_p",),
    "grpo.top_k": ("grpo.temperature", "grpo.min_p", "grpo.repetition_penalty"),
    "grpo.stop": ("grpo.max_completion_length",),
    "grpo.prompts": ("grpo.system_prompt", "grpo.chat_template_kwargs", "client.data"),
    "client.reward_weights": ("client.reward",),
    "client.task": ("client.data", "client.difficulty", "client.rows"),
    "client.data": ("client.reward", "evaluation.data", "client.count"),
    "client.subject": ("privacy.unit", "client.rows_per_subject"),
    "client.rows": ("client.rows_per_subject", "privacy.units_per_client"),
    "client.reward": ("client.reward_scale",),
    "client.name": ("client.count",),
    "evaluation.data": ("evaluation.reward", "evaluation.prompts"),
    "evaluation.samples": ("evaluation.prompts",),
    "evaluation.every": ("federation.rounds",),
    "weighting.rule": ("weighting.gain", "weighting.temperature", "weighting.favour", "privacy.unit"),
    "weighting.gain_clip": ("weighting.min_weight", "weighting.temperature"),
    "weighting.baseline_decay": ("weighting.rule",),
    "weighting.denominator": ("privacy.unit",),
    "weighting.reward_range": ("weighting.reward_noise_multiplier", "weighting.rule", "privacy.unit"),
    "privacy.unit": ("privacy.mode", "privacy.units_per_client"),
    "privacy.epsilon": ("privacy.noise_multiplier", "privacy.delta", "client.count"),
    "privacy.clip_norm": ("server.learning_rate", "privacy.adaptive_clip"),
    "privacy.adaptive_clip.quantile": ("privacy.adaptive_clip.learning_rate", "privacy.adaptive_clip.range"),
    "privacy.sampling_rate": ("privacy.max_rounds_per_unit", "privacy.unit", "engine.owners"),
    "privacy.max_rounds_per_unit": ("federation.rounds", "federation.schedule", "engine.owners"),
    "aggregation.mode": ("aggregation.adversary", "aggregation.max_corrupt"),
    "aggregation.max_corrupt": ("aggregation.max_dropout", "privacy.epsilon"),
    "aggregation.shard_size": ("aggregation.adversary", "privacy.epsilon"),
    "aggregation.post_quantum": ("aggregation.mode",),
    "server.optimizer": ("server.momentum", "server.learning_rate"),
    "server.averaging": ("evaluation.every",),
    "engine.faults": ("aggregation.max_dropout", "aggregation.mode"),
    "deployment.name": ("run.name",),
    "deployment.curators": ("deployment.publication_date", "deployment.region", "deployment.sector"),
    "deployment.intended_use": ("deployment.sector",),
    "engine.kind": ("engine.processes",),
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key: `allowed` in words, `default` as it would be written, None where one must be given."""

    name: str
    allowed: str
    default: str | None
    meaning: str
    related: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file: `heading` as it is written there."""

    heading: str
    about: str
    keys: tuple[Key, ...]


def tables() -> list[Table]:
    """All of them, in the order of a written file."""
    return [_table(name, heading, kind) for name, heading, kind in _kinds()]


def matching(wanted: str | None) -> list[Table]:
    """The tables with the keys that `wanted` names: all of a table, one key, or a key's last part; None: everything."""
    found = tables()
    if wanted is None:
        return found
    chosen = [replace(table, keys=tuple(key for key in table.keys if _named(key, table, wanted))) for table in found]
    return [table for table in chosen if table.keys]


def nearest(wanted: str) -> str:
    """What somebody may have meant who asks for a key that there is not."""
    names = [name for table in tables() for name in (table.heading.strip("[]"), *(key.name for key in table.keys))]
    close = difflib.get_close_matches(wanted, names, n=1)
    return f"did you mean {close[0]!r}?" if close else "`fgrpo config` prints all"


def _named(key: Key, table: Table, wanted: str) -> bool:
    return wanted in (key.name, key.name.rpartition(".")[2], table.heading.strip("[]"))


def allowed(kind: type[Section], key: str) -> str:
    """What a key may be, in words: "an integer from 1 to 64", '"os" or "seeded"'."""
    schema = _schema(kind)
    options = schema["properties"][key].get("anyOf", [schema["properties"][key]])
    resolved = [_resolved(option, schema) for option in options]
    return " or ".join(_describe(option) for option in resolved if option.get("type") != "null")


@cache  # asked for every key that is written or read again, and slow to make
def _schema(kind: type[Section]) -> dict[str, Any]:
    return kind.model_json_schema()


def related(name: str) -> tuple[str, ...]:
    """The keys that belong to this one, whichever of the two `RELATED` is written at."""
    back = [key for key, others in RELATED.items() if name in others]
    return tuple(dict.fromkeys([*RELATED.get(name, ()), *back]))


def _kinds() -> Iterator[tuple[str, str, type[Section]]]:
    for name, about in Config.model_fields.items():
        if name == "client":
            yield name, "[[client]]", Client
            continue
        kind = about.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield name, f"[{name}]", kind
        if name == "privacy":
            yield "privacy.adaptive_clip", "[privacy.adaptive_clip]", AdaptiveClip


def _table(name: str, heading: str, kind: type[Section]) -> Table:
    about = " ".join((kind.__doc__ or "").split())
    return Table(heading, about, tuple(_key(name, kind, each) for each in kind.model_fields))


def _key(table: str, kind: type[Section], key: str) -> Key:
    field, name = kind.model_fields[key], f"{table}.{key}"
    meaning = field.description or ""
    return Key(name, allowed(kind, key), _default(field.get_default(call_default_factory=True)), meaning, related(name))


def _default(value: Any) -> str | None:
    if value is PydanticUndefined:
        return None
    return "not set" if value is None else json.dumps(value)


def _resolved(option: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in option:
        return option
    found: Mapping[str, Any] = schema["$defs"][option["$ref"].rpartition("/")[2]]
    return found


PLAIN = {"boolean": "true or false", "integer": "an integer", "number": "a number", "string": "a text"}
PLURAL = {"string": "texts", "number": "numbers"}
WHERE = "letters, digits, '.', '_' and '-', with a letter or digit first, 64 at most"
STEPS = (
    "a table of probabilities at least 0 and below 1, by step: announce, share, mask, agree or unmask, each alone or "
    "as step.drop, step.duplicate, step.corrupt"
)
FORMS = {r"^\d": "a date YYYY-MM-DD", "^[0-9a-f]{64}": "64 hexadecimal digits in lower case", "^[A-Za-z0-9]": WHERE}


def _describe(option: Mapping[str, Any]) -> str:
    if "enum" in option:
        return " or ".join(json.dumps(choice) for choice in option["enum"])
    if "const" in option:
        return json.dumps(option["const"])
    kind = option.get("type", "string")
    if "pattern" in option:
        return next((words for start, words in FORMS.items() if option["pattern"].startswith(start)), PLAIN[kind])
    if kind == "array":
        if "prefixItems" in option:
            return "a list of two numbers, the smaller first"
        least = ", one at least" if option.get("minItems") else ""
        return f"a list of {PLURAL[option['items']['type']]}{least}"
    if kind == "object":
        values = "a table of true, false, numbers or texts" if option.get("additionalProperties") else "a table"
        return STEPS if "patternProperties" in option else values
    bounds = _bounds(option)
    return f"{PLAIN[kind]}{bounds}" if bounds or kind != "number" else "a finite number"


def _bounds(option: Mapping[str, Any]) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    stated = [f"{sign} {_number(option[word])}" for word, sign in words.items() if word in option]
    return f" {' and '.join(stated)}" if stated else ""


def _number(value: float) -> str:
    if isinstance(value, int) and value > 2**31 and value.bit_count() == 1:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def as_text(found: list[Table]) -> str:
    """For a terminal: a paragraph for each key."""
    lines: list[str] = []
    for table in found:
        lines += [table.heading, f"  {table.about}", ""]
        for key in table.keys:
            lines += [f"  {key.name} = {key.default or 'must be given'}", f"      {key.meaning}"]
            lines += [f"      allowed: {key.allowed}"]
            lines += [f"      with: {', '.join(key.related)}"] if key.related else []
        lines += [""]
    return "\n".join(lines)


HEAD = """# Configuration

Every key of a configuration, made from the schema by `fgrpo config --markdown`: do not edit. A file states only what
differs from the defaults; a preset is such a file. On the command line `--set privacy.epsilon=4` overrides a key,
`--set client.NAME.count=8` one of a client. Each run writes its effective configuration to `config.toml`, with these
meanings as comments.
"""


def page() -> str:
    """docs/reference/configuration.md."""
    return f"{HEAD}\n{as_markdown(tables())}"


def as_markdown(found: list[Table]) -> str:
    """The tables, for a page."""
    lines: list[str] = []
    for table in found:
        lines += [f"## {table.heading}", "", table.about, ""]
        lines += ["| key | default | allowed | meaning | goes with |", "|---|---|---|---|---|"]
        for key in table.keys:
            others = ", ".join(f"`{other}`" for other in key.related) or "-"
            default = "must be given" if key.default is None else f"`{key.default}`"
            name = key.name.rpartition(".")[2]
            lines += [f"| `{name}` | {default} | {_cell(key.allowed)} | {_cell(key.meaning)} | {others} |"]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("[[", "\\[\\[")
