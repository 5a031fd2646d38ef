"""Which configurations keep a subject's or a prompt's contribution its own, and why the others are refused.

Under `privacy.unit` = "subject" or "prompt_group" the claim rests on one sentence: change one unit's data, and no
other unit's contribution changes by a bit. Every setting that would let one unit's data reach another's gradient
is refused here, with the reason. Settings that are not written get the value that such a run can have.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fgrpo_secure.config.schema import Client, Config

SMALL_UNITS = ("subject", "prompt_group")  # units inside a client; a client is clipped as a whole, whatever it did
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "weighting": {"rule": "uniform"},
    "grpo": {"optimizer": "sgd", "max_grad_norm": None},
}


def with_defaults(table: Any) -> Any:
    """The raw configuration with `DEFAULTS` for keys that are not written, if its unit lies inside a client."""
    privacy = table.get("privacy") if isinstance(table, dict) else None
    unit = privacy.get("unit") if isinstance(privacy, dict) else None
    if unit not in SMALL_UNITS:
        return table
    defaults: dict[str, Mapping[str, object]] = dict(DEFAULTS)
    if unit == "prompt_group":
        defaults["grpo"] = {**DEFAULTS["grpo"], "prompts_per_step": 1}
    filled = dict(table)
    for section, values in defaults.items():
        written = table.get(section, {})
        if isinstance(written, dict):
            filled[section] = {**values, **written}
    return filled


def procedural_units(config: "Config", client: "Client") -> int:
    """How many units a procedural client's data set has."""
    each = client.rows_per_subject if config.privacy.unit == "subject" else 1
    return -(-(client.rows or 0) // each)


def whole_update(unit: str, client: "Client") -> str:
    """Why what a client trains by cannot be where the unit lies inside it; empty where it can."""
    if unit in SMALL_UNITS and client.keep_optimizer:
        return (
            f"client {client.name!r} has keep_optimizer: what it remembers holds every unit of earlier rounds, which "
            f"privacy.unit {unit!r} would not clip again: leave it out, or protect whole clients"
        )
    if client.trainer is None or unit not in SMALL_UNITS:
        return ""
    return (
        f"client {client.name!r} has a trainer of its own, which returns one update for all its rows; privacy.unit "
        f"{unit!r} clips every unit's gradient by itself: leave 'trainer' out, or protect whole clients"
    )


def check(config: "Config") -> None:
    """Raises ValueError with the first reason why units would not be protected."""
    reasons = _small_unit(config) if config.privacy.unit in SMALL_UNITS else _whole_client(config)
    for reason in (*_same_files(config), *reasons):
        if reason:
            raise ValueError(reason)


def _whole_client(config: "Config") -> list[str]:
    privacy = config.privacy
    only = "is for privacy.unit 'subject' and 'prompt_group'"
    return [
        f"privacy.mode 'local' {only}: a client's own noise per step protects units inside it"
        if privacy.mode == "local"
        else "",
        f"privacy.sampling_rate {only}: the server sees which clients take part" if privacy.sampling_rate else "",
        f"privacy.units_per_client {only}" if privacy.units_per_client else "",
        f"privacy.max_rounds_per_unit {only}; a client's rounds are federation.max_rounds_per_client"
        if privacy.max_rounds_per_unit
        else "",
        f"weighting.reward_range, and weighting.reward_noise_multiplier with it, {only}: a client's gain rides in its "
        "clipped vector"
        if config.weighting.reward_range or config.weighting.reward_noise_multiplier
        else "",
    ]


def _small_unit(config: "Config") -> list[str]:
    unit = config.privacy.unit
    given = f"privacy.unit is {unit!r}"
    return [_clip(config), *_training(config, given), *_weights(config), *_participation(config), *_data(config)]


def _clip(config: "Config") -> str:
    if config.privacy.adaptive_clip is None:
        return ""
    return (
        "privacy.adaptive_clip follows norms of whole clients' updates, and only privacy.unit 'client' clips those: "
        "inside a client every unit, at every step, would have to say a bit of its own; leave it out"
    )


def _training(config: "Config", given: str) -> list[str]:
    grpo, local = config.grpo, config.privacy.mode == "local"
    return [
        f"{given}: grpo.loss_type {grpo.loss_type!r} divides by what other prompts produced; use 'dr_grpo'"
        if grpo.loss_type != "dr_grpo"
        else "",
        f"{given}: grpo.scale_rewards 'batch' divides by a deviation over all units; use 'group' or 'none'"
        if grpo.scale_rewards == "batch"
        else "",
        f"{given}: grpo.num_iterations above 1 uses the same rollouts for several releases; use 1"
        if grpo.num_iterations > 1
        else "",
        f"{given}: adapter.dropout draws the masks of all units from one generator, so that one unit's absence would "
        "move the gradients of the others; set it to 0"
        if config.adapter.dropout
        else "",
        f"{given}: grpo.max_grad_norm clips the sum over units, which couples them; leave it out, clip_norm clips each"
        if grpo.max_grad_norm is not None
        else "",
        f"{given}: grpo.optimizer 'adam' has no part in mode 'distributed', where clipped gradients themselves are "
        "sent; use 'sgd', and server.optimizer for Adam"
        if grpo.optimizer == "adam" and not local
        else "",
        f"{given}: federation.local_steps above 1 would train on gradients that no noise covers yet; "
        "use 1, or privacy.mode = 'local'"
        if config.federation.local_steps > 1 and not local
        else "",
        f"{given}: grpo.prompts_per_step counts the prompts of one unit, and a prompt group has exactly 1"
        if config.privacy.unit == "prompt_group" and grpo.prompts_per_step != 1
        else "",
    ]


def _weights(config: "Config") -> list[str]:
    weighting = config.weighting
    low, high = weighting.reward_range or (0.0, 1.0)
    noised = weighting.reward_range is not None and weighting.reward_noise_multiplier is not None
    return [
        f"weighting.rule {weighting.rule!r} would weigh every unit by the raw rewards of all; use 'uniform', or give "
        "weighting.reward_range and weighting.reward_noise_multiplier"
        if weighting.rule != "uniform" and not noised
        else "",
        "weighting.reward_range and weighting.reward_noise_multiplier cost privacy, and rule 'uniform' has no use "
        "for them; leave them out"
        if weighting.rule == "uniform" and (weighting.reward_range or weighting.reward_noise_multiplier)
        else "",
        f"weighting.reward_range is {low:g} to {high:g}; it must be ascending" if low >= high else "",
        "weighting.gain_prompts asks for prompts whose rewards no charge covers; leave it out"
        if weighting.gain_prompts is not None
        else "",
    ]


def _participation(config: "Config") -> list[str]:
    privacy = config.privacy
    return [
        "privacy.max_rounds_per_unit takes units in public blocks, privacy.sampling_rate by secret Poisson sampling; "
        "give only one of them"
        if privacy.sampling_rate is not None and privacy.max_rounds_per_unit is not None
        else "",
        "federation.schedule 'blocks' takes part of the clients, which privacy.max_rounds_per_unit does not count; "
        "use schedule 'all'"
        if privacy.max_rounds_per_unit is not None and config.federation.schedule != "all"
        else "",
    ]


def _same_files(config: "Config") -> list[str]:
    """One file in several clients, or in training and evaluation: rows for which the claim would not hold."""
    if config.privacy.unit == "none":
        return []
    readers = [each for each in config.client if each.data is not None]
    files = [str(each.data) for each in readers]
    copies = [each for each in readers if each.count > 1]
    return [
        *(
            f"client {each.name!r} has count {each.count}: its copies would read one file, so each row would be in "
            f"{each.count} clients and have several budgets; give every client a file of its own"
            for each in copies
        ),
        "two [[client]] tables read the same data file: its rows would have two budgets"
        if len(set(files)) < len(files)
        else "",
        f"evaluation.data {config.evaluation.data!r} is a client's data file: pass rates would tell about rows that "
        "are trained on; evaluate on prompts that no client holds"
        if config.evaluation.data in files
        else "",
    ]


def _data(config: "Config") -> list[str]:
    unit, needs_count = config.privacy.unit, config.privacy.units_per_client is None
    reasons = [_client(config, each) for each in config.client]
    files = [each.data for each in config.client if each.data is not None]
    if needs_count and files:
        reasons.append(
            f"privacy.unit is {unit!r}: give privacy.units_per_client, the most units that any client holds; "
            "the number in its data is not public"
        )
    return reasons


def _client(config: "Config", client: "Client") -> str:
    unit, name = config.privacy.unit, client.name
    if reason := whole_update(unit, client):
        return reason
    if unit == "subject" and client.subject is None:
        return f"client {name!r} needs 'subject', the column that says whom a row is about: the unit is 'subject'"
    if client.task is not None and client.rows is None:
        return f"client {name!r} draws fresh problems without end; give 'rows': units need a data set that stays"
    most = config.privacy.units_per_client
    if client.task is not None and most is not None and procedural_units(config, client) > most:
        held = procedural_units(config, client)
        return f"client {name!r} has {held} units; privacy.units_per_client allows {most}"
    return ""
