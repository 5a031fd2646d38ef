"""Every attack there is, in the order of the table. A new family is a module in `attacks/` and a line here."""

from threat_model.attack import Attack
from threat_model.attacks import identities, masking, partial_views, plans, repetitions, split_views

ATTACKS: tuple[Attack, ...] = (
    *split_views.ATTACKS,
    *partial_views.ATTACKS,
    *identities.ATTACKS,
    *repetitions.ATTACKS,
    *plans.ATTACKS,
    *masking.ATTACKS,
)


class UnknownAttack(Exception):
    """No attack has this name."""


def named(name: str) -> Attack:
    """The attack of that name. Raises UnknownAttack."""
    found = [attack for attack in ATTACKS if attack.name == name]
    if not found:
        raise UnknownAttack(f"there is no attack {name!r}; `fgrpo attack --list` shows all {len(ATTACKS)}")
    return found[0]
