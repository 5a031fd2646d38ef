"""The table of attacks in README.md, made from the registry: `python -m threat_model.table` writes it."""

from collections.abc import Sequence
from pathlib import Path

from threat_model.attack import Attack
from threat_model.registry import ATTACKS

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- attacks: made by python -m threat_model.table -->", "<!-- end of attacks -->"


def table(attacks: Sequence[Attack]) -> str:
    """One line per attack, and below it the statistical ones with their pass lines."""
    lines = ["| attack | adversary | claim | removed in the weakened copy |", "|---|---|---|---|"]
    for attack in attacks:
        checks = "; ".join(dict.fromkeys(weakening.check for weakening in attack.weakenings))
        lines.append(f"| `{attack.name}` | {attack.adversary} | {attack.claim} | {checks} |")
    lines += ["", "Statistical attacks, with what was fixed before they ran:", ""]
    lines += [f"* `{attack.name}`: {attack.statistics}" for attack in attacks if attack.statistics]
    return "\n".join(lines)


def renewed(text: str, attacks: Sequence[Attack]) -> str:
    """The page with a current table. ValueError unless it has the two marks around one."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page has no marks around its table of attacks")
    return f"{before}{BEGIN}\n\n{table(attacks)}\n\n{END}{after}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text("utf-8"), ATTACKS), "utf-8")
