"""What an adapter or model that a run starts from already claims about those it was trained on, by its own statement.

Training again on the same people adds up. Nobody here can know who was in earlier data, and a statement that lies
beside a folder is its publisher's word: so this only says what stands there, or that nothing is known.
"""

import json
import math
from pathlib import Path
from typing import Any

from fgrpo_secure.config.schema import Config

STATEMENT = "privacy_statement.json"
LARGEST = 1 << 20
BUILT_IN = "builtin"


def sentences(config: Config) -> list[str]:
    """One sentence for each thing that training starts from, none for the shipped model: it saw invented problems."""
    begun = [("adapter.init_from", config.adapter.init_from)]
    begun += [("model.path", None if config.model.path == BUILT_IN else config.model.path)]
    return [_sentence(key, path, config) for key, path in begun if path is not None]


def _sentence(key: str, path: str, config: Config) -> str:
    found = _claim(Path(path))
    if found is None:
        return f"{key}: what {path} was trained on before, and what that cost whom, is unknown"
    epsilon, delta, unit, mu = found
    said = f"{key}: {path} states epsilon {epsilon:.4g} at delta {delta:g} for each {unit}"
    if mu is None or unit != config.privacy.unit:
        return f"{said}; for whoever is in both data, that comes on top"
    return f"{said}; for whoever is in both data, mu = {mu:.4g} comes on top (squares of mu add up)"


def _claim(folder: Path) -> tuple[float, float, str, float | None] | None:
    """(epsilon, delta, unit, mu) of the statement in a run's folder or in the one above its adapter."""
    for place in (folder / STATEMENT, folder.parent / STATEMENT):
        try:
            with place.open("rb") as file:
                stated: Any = json.loads(file.read(LARGEST))  # of a longer one a part, which is no JSON
            claim = stated["claims"]["server"]
            mu = claim["mu"]
            figures = (float(claim["epsilon"]), float(claim["delta"]))
            if all(map(math.isfinite, figures)):
                return *figures, str(stated["unit"])[:40], None if mu is None else float(mu)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return None
