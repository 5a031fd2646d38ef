"""The owner's policy before it knows any run: cautious figures for every rule, and two keys that a run gives.

client new    every rule commented; trust.authority and trust.models not set
client join   the owner agrees to a run -> its authority and its base model are added, all else stays as written
"""

import re

import tomlkit
from tomlkit.exceptions import TOMLKitError

from fgrpo_secure.client.policy import ClientPolicy, Protection, Rounds, Trust
from fgrpo_secure.config.files import ConfigError, dump_tables, parse_as

UNKNOWN = "0" * 64
GIVEN_BY_A_RUN = ("authority", "models")
NOT_SET = "is not set until you join a run: "
# The fewest clients that withstand a server that lies, with one of them on its side.
FEWEST = 5
QUORUM_OF_FEWEST = 4
CAUTIOUS = ClientPolicy(
    trust=Trust(authority=UNKNOWN, models=(UNKNOWN,), adversary="lying_server", max_corrupt=0.05, max_dropout=0.25),
    rounds=Rounds(
        min_cohort=FEWEST,
        min_survivors=QUORUM_OF_FEWEST,
        min_quorum=QUORUM_OF_FEWEST,
        min_threshold=QUORUM_OF_FEWEST,
    ),
    privacy=Protection(
        unit="client",
        epsilon=8.5,
        delta=1e-5,
        min_noise_multiplier=0.5,
        max_sessions=3000,
        max_cohort=1000,
        max_dimension=20_000_000,
    ),
)


def draft(name: str) -> str:
    """The text of a new owner's file."""
    text = dump_tables(
        CAUTIOUS,
        f"What {name} insists on before it takes part in a round. Its owner edits this file; no server can change it.",
        "Read the figures before the first run: they are cautious guesses, nobody's advice. It is read at every start.",
        "docs/how-to/client-policy.md explains every rule.",
    )
    for key in GIVEN_BY_A_RUN:
        text = re.sub(rf"(?m)^{key} = .*? # ", f"# {key} {NOT_SET}", text, count=1)
    return text


def agreed(text: str, authority: str, model: str, origin: str) -> tuple[ClientPolicy, str]:
    """The policy in `text` once its owner agrees to a run with this authority and base model, and its new text.

    An authority that stands there already stays. ConfigError if the file cannot be used.
    """
    text = text.replace(f"# authority {NOT_SET}", f'authority = "{authority}" # ')
    text = text.replace(f"# models {NOT_SET}", f'models = ["{model}"] # ')
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as problem:
        raise ConfigError(f"{origin} is not valid TOML: {problem}") from None
    trust = document.get("trust")
    if isinstance(trust, tomlkit.items.Table):
        if "authority" not in trust:
            trust.add("authority", authority)
        models = trust.get("models", [])
        # Added, never replaced: models of earlier runs were agreed to as well.
        if isinstance(models, list) and model not in models:
            trust["models"] = [*models, model]
    policy = parse_as(ClientPolicy, document.unwrap(), origin)
    try:
        policy.budget()
    except ValueError as problem:
        raise ConfigError(f"{origin}: privacy.epsilon: {problem}") from None
    return policy, tomlkit.dumps(document)
