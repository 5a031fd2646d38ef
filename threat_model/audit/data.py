"""The neighbour audit: an owner's own data with and without each unit, through the product's own code.

For every unit that is taken away it asks two things. Are names, blocks, batches, seeds and contributions of all other
units the same, bit for bit? And does the client's sum of integers move by the contribution that is gone, and by no
more than the bound that noise is scaled to? Under unit `client` the vector that is gone is all there is to ask about.

It looks at data, so what it measures is for its owner alone. What a run keeps of it is public: that it was done, for
how many clients, and whether it passed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fgrpo_secure.client import round as client_round
from fgrpo_secure.client import unit_round
from fgrpo_secure.client.owner import Owner, make_owners
from fgrpo_secure.config.schema import Client, Config
from fgrpo_secure.config.unit_rules import SMALL_UNITS
from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.gain import Baseline
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.tasks import open_units
from fgrpo_secure.learning.tasks.files import Line, UnusableData, lines
from fgrpo_secure.learning.tasks.rewards import own_reward
from fgrpo_secure.plan import round_settings
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.privacy.encode import IntArray
from threat_model.audit.setting import Setting
from threat_model.audit.units import norm

DEFAULT_UNITS = 16  # of a client, taken away one after the other
SAME_COINS = SeededEntropy(b"both neighbours are rounded alike")
VIEW = "an owner's own data with and without each unit, before noise; figures are for the owner alone"


@dataclass(frozen=True)
class Part:
    """What one unit does in a round: everything that must not depend on any other."""

    block: int
    batch: str = field(repr=False)
    seed: int
    values: IntArray | None = field(repr=False)

    def same(self, other: "Part | None") -> bool:
        """Bit for bit."""
        if other is None or (self.block, self.batch, self.seed) != (other.block, other.batch, other.seed):
            return False
        mine, theirs = self.values, other.values
        return (mine is None) == (theirs is None) and (mine is None or theirs is None or bool((mine == theirs).all()))


@dataclass(frozen=True)
class Seen:
    """What one owner's data comes to in a round: each unit's part by name, and the sum before noise."""

    parts: Mapping[str, Part] = field(repr=False)
    total: IntArray = field(repr=False)


@dataclass(frozen=True)
class Found:
    """One unit taken away: how far the sum moved, what it may, and how many other units' parts changed."""

    moved: float
    bound: int
    changed: int

    @property
    def passed(self) -> bool:
        """Whether the unit reached nothing but its own bounded vector."""
        return self.moved <= self.bound and self.changed == 0


def see(owner: Owner, adapted: AdaptedModel, settings: RoundSettings) -> Seen:
    """`owner`'s units in the first step of a round from the adapter as it is, which is the same afterwards."""
    table, terms = owner.units, unit_round.terms(settings)
    if table is None:
        raise ValueError("this owner's data is not divided into units")
    block_of = {name: block for block in range(terms.blocks) for name in table.in_block(block, terms.blocks)}
    groups = {name: owner.unit_groups(adapted, settings, 0, name) for name in table.rows}
    parts = {}
    for name, own in groups.items():
        rounding = SAME_COINS.child("rounding", 0).child("unit", name)
        vector = None if own is None else unit_round.unit_vector(adapted, owner, settings, own, 1.0, rounding)
        batch = table.batch(name, settings.training_round, 0, settings.grpo.prompts_per_step)
        seed = owner.rollout_seed(settings, f"0/{name}")
        parts[name] = Part(block_of[name], repr(batch), seed, None if vector is None else vector.values)
    scores = client_round.scores(0.0, 1.0, settings)
    step = unit_round.Step(0, groups)
    total = unit_round.before_noise(adapted, owner, settings, step, 1.0, scores, SAME_COINS)
    return Seen(parts, total.values)


def difference(whole: Seen, without: Seen, bound: int) -> Found:
    """What taking one unit away changed."""
    changed = sum(not part.same(whole.parts.get(name)) for name, part in without.parts.items())
    lost = max(0, len(whole.parts) - len(without.parts) - 1)
    return Found(norm(whole.total - without.total), bound, changed + lost)


def audit(config: Config, adapted: AdaptedModel, audited: Setting, most: int = DEFAULT_UNITS) -> Audit:
    """Every client's own data, up to `most` units of each taken away. Raises UnusableData."""
    if not config.client:
        raise UnusableData("engine.kind is 'https': no [[client]] table names data to take a unit from")
    with TemporaryDirectory() as folder:
        found = [each for client in config.client for each in _client(config, client, adapted, Path(folder), most)]
    passed = all(each.passed for each in found)
    return Audit(
        audit="data",
        unit=audited.unit,
        view=VIEW,
        claimed_epsilon=audited.epsilon,
        delta=audited.delta,
        alpha=0.0,
        trials=len(found),
        lower_bounds={},
        estimates={},
        sensitivity=max((each.moved for each in found), default=0.0),
        sensitivity_bound=audited.lattice.integer_bound if passed else min(each.bound for each in found),
        assumptions={},
        shared=("adjacency is zero-out: a unit's lines are there, or are not", "one round, from the first adapter"),
        interference=any(each.changed for each in found),
    )


def publishable(found: Audit, clients: int) -> Audit:
    """The same without what was measured: how many units there are, and how loud one is, is the owners' secret."""
    failed = not found.passed
    return replace(found, trials=clients, sensitivity=float(found.sensitivity_bound), interference=failed)


def _client(config: Config, client: Client, adapted: AdaptedModel, folder: Path, most: int) -> Iterator[Found]:
    settings = round_settings.for_round(config, 0, 0)
    if config.privacy.unit not in SMALL_UNITS:
        yield _whole(config, client, adapted, settings, folder)
        return
    kept = _lines(config, client)
    bound = settings.unit_lattice(adapted.dimension(0)).integer_bound
    whole = see(_owner(config, client, folder, kept), adapted, settings)
    for unit in list(dict.fromkeys(filter(None, (_unit(line, config, client) for line in kept))))[:most]:
        fewer = [line for line in kept if _unit(line, config, client) != unit]
        yield difference(whole, see(_owner(config, client, folder, fewer), adapted, settings), bound)


def _whole(config: Config, client: Client, adapted: AdaptedModel, settings: RoundSettings, folder: Path) -> Found:
    """A client that is a unit itself: its whole vector is what goes, and `unit` none leaves the noise out."""
    bare = settings.model_copy(update={"unit": "none"})
    lattice = bare.upload_lattice(adapted.dimension(0))
    (owner,) = make_owners((client.model_copy(update={"count": 1}),), config.run.seed, {0}, folder).values()
    learned = client_round.learn(adapted, owner, bare)
    made = client_round.privatise(learned, bare, lattice, Baseline(), 1.0, SAME_COINS)
    return Found(norm(made.vector.values), lattice.integer_bound, 0)


def _lines(config: Config, client: Client) -> list[Line]:
    """The client's data as lines of a file; a procedural data set is written out."""
    if client.data is not None:
        return lines(client.data)
    table = open_units(client, config.run.seed, 0, config.privacy.unit, config.units_per_client)
    rows = [row for own in table.rows.values() for row in own]
    return [Line(client.name, number, json.dumps(row).encode()) for number, row in enumerate(rows, start=1)]


def _unit(line: Line, config: Config, client: Client) -> str | None:
    """Whose line it is, by a reading of our own; None: nobody's."""
    try:
        said = json.loads(line.data)
    except (ValueError, RecursionError):
        return None
    if config.privacy.unit == "prompt_group":
        return f"line {line.number}"
    subject = said.get(client.subject) if isinstance(said, dict) else None
    return None if subject is None else json.dumps(subject)


def _owner(config: Config, client: Client, folder: Path, kept: list[Line]) -> Owner:
    path = folder / f"{client.name}.jsonl"
    path.write_bytes(b"".join(line.data + b"\n" for line in kept))
    reward = client.reward or own_reward(str(client.task))
    changes: dict[str, object] = {
        "task": None,
        "task_settings": {},
        "rows": None,
        "data": str(path),
        "reward": reward,
        "count": 1,
    }
    moved = client.model_copy(update=changes)
    (owner,) = make_owners(
        (moved,), config.run.seed, {0}, folder, config.privacy.unit, config.units_per_client
    ).values()
    if owner.units is None or (kept and not owner.units.rows):
        raise UnusableData(f"client {client.name!r} has no line that can be used")
    return owner
