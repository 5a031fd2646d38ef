"""Who a configuration says takes part: the [[client]] tables of a trial, or a number of organisations elsewhere.

A run over many machines names neither owners nor data: its clients are those of a signed roster, and what each trains
on stands in a file of its own.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fgrpo_secure.config.schema import Config


def check(config: "Config") -> None:
    """Raises ValueError with the first reason why it cannot be said who takes part."""
    where = _apart(config) if config.engine.kind == "https" else _together(config)
    for reason in (*where, *_on_ray(config), *_cohort(config)):
        if reason:
            raise ValueError(reason)


def _apart(config: "Config") -> list[str]:
    kind = "engine.kind is 'https'"
    units, inside = config.privacy.units_per_client, config.privacy.unit in ("subject", "prompt_group")
    return [
        f"{kind}: clients are organisations whose own files say what they train on; remove the [[client]] tables"
        if config.client
        else "",
        f"{kind}: give federation.clients, how many organisations take part"
        if config.federation.clients is None
        else "",
        f"{kind}: aggregation.mode 'plain' would show every organisation's update to the server; use 'secure'"
        if config.aggregation.mode == "plain"
        else "",
        f"{kind}: evaluation.data is 'tasks', so give evaluation.tasks, or name a JSON Lines file"
        if config.evaluation.data == "tasks" and not config.evaluation.tasks
        else "",
        f"privacy.unit is {config.privacy.unit!r}: give privacy.units_per_client, the most that any client holds; "
        "the number in its data is not public"
        if inside and units is None
        else "",
        f"{kind}: engine.processes and engine.owners are for trials on one machine; remove them"
        if config.engine.processes != 1 or config.engine.owners is not None
        else "",
    ]


def _together(config: "Config") -> list[str]:
    stated = config.federation.clients
    return [
        "client is missing: no [[client]] table says who takes part; give at least one" if not config.client else "",
        _same_names(config),
        f"federation.clients is {stated}, but the [[client]] tables make {config.clients_total} clients"
        if stated is not None and stated != config.clients_total
        else "",
        "engine.faults strike the steps of secure aggregation; aggregation.mode 'plain' has none"
        if config.aggregation.mode == "plain" and config.engine.faults
        else "",
    ]


def _same_names(config: "Config") -> str:
    """Clients that would come to one name: with `count` they are NAME-0, NAME-1, ..."""
    if len({client.name for client in config.client}) != len(config.client):
        return "client.name: two [[client]] tables have the same name"
    alone = {client.name for client in config.client if client.count == 1}
    for many in (client for client in config.client if client.count > 1):
        for name in alone:
            number = name.removeprefix(f"{many.name}-")
            if number != name and number.isdecimal() and str(int(number)) == number and int(number) < many.count:
                return (
                    f"client.name: {name!r} is also client {number} of the {many.count} that {many.name!r} stands for; "
                    "rename one of them"
                )
    return ""


def _on_ray(config: "Config") -> list[str]:
    return [
        f"engine.gpus is {config.engine.gpus:g}: only Ray gives accelerators away; set engine.kind = 'ray'"
        if config.engine.gpus and config.engine.kind != "ray"
        else "",
    ]


def _cohort(config: "Config") -> list[str]:
    return [
        f"federation.clients_per_round is {config.cohort}; there are only {config.clients_total} clients"
        if config.cohort > config.clients_total
        else "",
        "federation.schedule 'all' takes every client in every round; use schedule = 'blocks' "
        f"for {config.cohort} of {config.clients_total}"
        if config.federation.schedule == "all" and config.cohort != config.clients_total
        else "",
    ]
