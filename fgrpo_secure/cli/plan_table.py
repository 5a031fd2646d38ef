"""What `fgrpo plan` prints for people: the figures of a plan in words, wrapped to the terminal. Scripts take --json."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fgrpo_secure.config.schema import Config
from fgrpo_secure.plan.cost import CAN_LEARN

LABEL = 12  # columns
WHOM = {
    "client": "each client, with everything it holds",
    "subject": "each subject, with all rows about it at one client",
    "prompt_group": "each prompt, with its completions and rewards",
}


def lines(config: Config, facts: Mapping[str, Any], width: int) -> Iterator[str]:
    """The table, in lines of at most `width` columns."""
    for label, sentences in _parts(config, facts):
        head = label
        for sentence in sentences:
            yield from textwrap.wrap(
                sentence,
                max(width, 40),
                initial_indent=f"{head:{LABEL}}",
                subsequent_indent=" " * LABEL,
                break_long_words=False,
                break_on_hyphens=False,
            )
            head = ""


def _parts(config: Config, facts: Mapping[str, Any]) -> list[tuple[str, Sequence[str]]]:
    federation = config.federation
    part = "all" if config.cohort == config.clients_total else f"{config.cohort:,}"
    run = (
        f"{config.run.name}: {_many(config.clients_total, 'client')}, {_many(facts['federation.rounds'], 'round')}, "
        f"{part} of them in each; {_many(federation.local_steps, 'step')} a round"
    )
    return [
        ("Run", [run]),
        ("Learning", _learning(facts)),
        ("Guarantee", _guarantee(facts)),
        ("Sums", [_sums(facts)]),
        ("If spoiled", _if_spoiled(facts)),
        ("Bytes", [_bytes(facts)]),
        ("Adapter", [f"{facts['adapter.dimension']:,} numbers a round from each client"]),
        ("Inputs", _inputs(facts)),
        ("Change", _changes(facts["advice"])),
        ("Better", _changes(facts["more_for_the_same_budget"])),
        ("Note", [*facts["warnings"], *facts["privacy.earlier"]]),
    ]


def _if_spoiled(facts: Mapping[str, Any]) -> list[str]:
    """What becomes of the run after a session that a liar spoiled, and what is set aside for that."""
    said = [str(facts["aggregation.after_failure"])]
    if facts["privacy.reserved_epsilon"]:
        reserved, part = facts["privacy.reserved_sessions"], facts["privacy.reserved_epsilon"]
        said.append(f"{_many(reserved, 'session')} without a sum fit into the budget; they are {part:.2g} of epsilon")
    return said


def _learning(facts: Mapping[str, Any]) -> list[str]:
    if facts["verdict"] != CAN_LEARN:
        return [facts["verdict"]]
    if facts["privacy.noise_multiplier"] is None:
        return ["it can learn: no noise is added"]
    return [f"it can learn: of the gain without noise about {facts['forecast.kept']:.0%} is left (an estimate)"]


def _guarantee(facts: Mapping[str, Any]) -> list[str]:
    epsilon = facts["privacy.epsilon_release"]
    if epsilon is None:
        return ["no differential privacy: nobody sees a single client's update, and sums and the model may tell much"]
    server = facts["privacy.epsilon_server"]
    whom = "the server, other clients and readers of the model" if server is not None else "readers of the model alone"
    found = [
        f"epsilon {epsilon:.3g} at delta {facts['privacy.delta']:g} for {WHOM[facts['privacy.unit']]}, against {whom}",
        f"noise multiplier {facts['privacy.noise_multiplier']:.3g}, {_many(facts['privacy.rounds_per_unit'], 'round')}",
    ]
    pair = facts["privacy.epsilon_group_of_2"]
    return found if pair is None else [*found, f"two together, or one in two places: epsilon {pair:.3g}"]


def _sums(facts: Mapping[str, Any]) -> str:
    if facts["aggregation.mode"] == "plain":
        return "no secure aggregation: the server sees every client's update"
    server = "lies" if facts["aggregation.adversary"] == "lying_server" else "is honest but curious"
    shards = facts["aggregation.shards"]
    split = f" in {shards} shards of {facts['aggregation.shard_size']:,} clients" if shards > 1 else ""
    needed = _many(facts["aggregation.minimum_survivors"], "client")
    return (
        f"{facts['aggregation.graph']} graph{split}; a sum needs {needed} "
        f"and withstands a server that {server}, with {_many(facts['aggregation.colluders'], 'client')} on its side"
    )


def _bytes(facts: Mapping[str, Any]) -> str:
    up, down = facts["bytes.up_per_client_per_round"], facts["bytes.down_per_client_per_round"]
    rounds = facts["privacy.rounds_per_client"]
    return (
        f"each client sends {_size(up)} and takes {_size(down)} a round; {_size(up * rounds)} and "
        f"{_size(down * rounds)} in the whole run"
    )


def _inputs(facts: Mapping[str, Any]) -> list[str]:
    held = ", ".join(f"{name} {count:,}" for name, count in facts["inputs.rows"].items())
    found = [f"rows: {held}"] if held else []
    found += [f"not checked: {each}" for each in facts["inputs.not_checked"]]
    return found + ([f"tried: {facts['tried']}"] if "tried" in facts else [])


def _changes(listed: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{each['change']}: --set {' --set '.join(each['set'])}" for each in listed if each["set"]]


def _size(count: float) -> str:
    units = ("bytes", "kB", "MB", "GB")
    place = min(len(units) - 1, (len(str(int(count))) - 1) // 3)
    return f"{count / 1000**place:.3g} {units[place]}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
