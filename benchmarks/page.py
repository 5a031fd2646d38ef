"""The pages that show what was measured: their tables are rendered from result files, between marks.

`<!-- learning:NAME -->` to `<!-- end -->` in a page is what the function of that name says about the files. A test
renders every page again and finds it unchanged: no figure is typed by hand.
"""

import re
from collections.abc import Callable
from pathlib import Path

import learning_tables as learned
import owners
import plots
import real_models
import record
import system_tables as system
import tried
from claims import Lines

ROOT = Path(__file__).parent.parent
EXPLANATION = ROOT / "docs/explanation"
PAGES = (
    ROOT / "README.md",
    ROOT / "docs/how-to/real-models.md",
    *(EXPLANATION / f"{name}.md" for name in ("learning", "weights", "measurements")),
)
MARK = re.compile(r"(<!-- learning:(\w+) -->\n\n)(.*?)(\n*<!-- end -->)", re.DOTALL)


def write() -> None:
    """Render every block of every page, and the plots."""
    lines = tried.finished()
    for path in PAGES:
        path.write_text(rendered(path.read_text(), lines))
    plots.epsilon(lines, record.RESULTS / "learning.svg")
    plots.weights(lines, record.RESULTS / "weights.svg")


def rendered(text: str, lines: Lines) -> str:
    """A page's text with every block as the result files have it."""
    return MARK.sub(lambda found: found[1] + BLOCKS[found[2]](lines).rstrip("\n") + "\n\n<!-- end -->", text)


BLOCKS: dict[str, Callable[[Lines], str]] = {
    "epsilon": learned.epsilon,
    "weights": learned.weights,
    "changing": learned.changing,
    "levers": learned.levers,
    "lever_facts": learned.lever_facts,
    "hospitals": learned.hospitals,
    "silos": learned.silos,
    "second_family": learned.second_family,
    "second_tasks": learned.second_tasks,
    "second_weights": learned.second_weights,
    "baselines": learned.baselines,
    "alone": learned.alone,
    "exactness": learned.exactness,
    "forecast": learned.forecast,
    "readme": learned.readme,
    "facts": learned.facts,
    "whole": lambda _: system.whole(),
    "smollm2": lambda _: real_models.table(record.lines(real_models.RESULTS)),
    "real": lambda _: real_models.sentence(record.lines(real_models.RESULTS)),
    "network_round": lambda _: system.network_round(),
    "big_adapters": lambda _: system.big_adapters(),
    "trainers": lambda _: system.trainers(),
    "owners": lambda _: owners.table(record.lines(owners.RESULTS)),
    "owners_beside": lambda _: owners.beside(record.lines(owners.RESULTS)),
    "beside_trl": lambda _: system.beside_trl(),
}
