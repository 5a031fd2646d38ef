"""Every attack there is, in the order of the table. A new family is a module in `attacks/` and a line here."""

from itertools import chain

from threat_model.attack import Attack
from threat_model.attacks import (
    accounts,
    blame,
    books,
    disclosures,
    encoding,
    identities,
    lying_clients,
    masking,
    members,
    noise,
    partial_views,
    pipes,
    plans,
    poison,
    prompts,
    records,
    repetitions,
    rounds,
    split_views,
    spoilers,
    whole_runs,
)

FAMILIES = (
    split_views,
    partial_views,
    identities,
    repetitions,
    records,
    plans,
    masking,
    rounds,
    lying_clients,
    spoilers,
    blame,
    books,
    accounts,
    whole_runs,
    disclosures,
    pipes,
    encoding,
    noise,
    poison,
    prompts,
    members,
)
ATTACKS: tuple[Attack, ...] = tuple(chain.from_iterable(family.ATTACKS for family in FAMILIES))


class UnknownAttack(Exception):
    """No attack has this name."""


def named(name: str) -> Attack:
    """The attack of that name. Raises UnknownAttack."""
    found = [attack for attack in ATTACKS if attack.name == name]
    if not found:
        raise UnknownAttack(f"there is no attack {name!r}; `fgrpo attack --list` shows all {len(ATTACKS)}")
    return found[0]


def family_of(name: str) -> str:
    """The module that an attack stands in. Raises UnknownAttack."""
    found = [family.__name__ for family in FAMILIES if any(attack.name == name for attack in family.ATTACKS)]
    if not found:
        raise UnknownAttack(f"no family in `attacks/` has an attack {name!r}")
    return found[0]
