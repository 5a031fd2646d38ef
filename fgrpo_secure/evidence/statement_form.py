"""The form of privacy_statement.json: the types that it is written from, and from which its schema is generated.

Everything but `asserted` follows from what the clients signed and from what configuration and rosters fix. `asserted`
is what only the server knows; `verify` shows it as that, and so does the report.
"""

from typing import Annotated, Any, Literal

import msgspec

from fgrpo_secure.config.schema import AdaptiveClip
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.evidence.exposure import Cover

FORMAT = "fgrpo-privacy-statement/2"

Hex32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
Hex64 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Delta = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Mu2 = Annotated[str, msgspec.Meta(pattern="^[0-9]+/[1-9][0-9]*$", description="mu squared, an exact fraction")]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every part of a statement has in common: immutable, and no field that is not listed."""


class RunPart(Part, frozen=True):
    """Which run. `stopped` is the reason that the server gave its clients; None if all planned rounds ended."""

    name: str
    identity: Hex32
    rounds: Count
    rounds_planned: Count
    clients: Count
    stopped: str | None
    reproducible_entropy: bool
    adapter_digest: Hex64
    base_model: str
    base_model_digest: Hex64 | None
    tokenizer_digest: Hex64 | None


class Origins(Part, frozen=True):
    """Public keys and digests that tie the statement to its parties."""

    server: Hex64
    authority: Hex64
    roster_digest: Hex64
    roster_version: Count
    ledger: str


class ServerClaim(Part, frozen=True):
    """Against the server and its colluders. `mu` where the mechanism is mu-GDP, else None.

    `epsilon_spent` is an odometer's reading. A group is several units, or one whose data so many clients hold.
    `delta_parts` is every failure probability that the claim rests on, by name; they add up to `delta`.
    """

    against: str
    epsilon: Amount
    epsilon_spent: Amount
    delta: Delta
    mu: Amount | None
    epsilon_replace_one: Amount | None
    epsilon_group_of_2: Amount | None
    epsilon_group_of_5: Amount | None
    delta_parts: dict[str, float]


class ReleaseClaim(Part, frozen=True):
    """Against a reader of the released models."""

    against: str
    epsilon: Amount
    epsilon_spent: Amount
    delta: Delta


class Claims(Part, frozen=True):
    """Bounds planned before the run, and what the ledger's entries amount to."""

    server: ServerClaim
    release: ReleaseClaim


class Sampling(Part, frozen=True):
    """Each unit takes part in a release by its client's secret draw."""

    rate: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    noise_multiplier: Annotated[float, msgspec.Meta(gt=0)]
    releases: Annotated[int, msgspec.Meta(ge=1)]


class Mechanism(Part, frozen=True):
    """How noise is added, how much, and how often a unit's data is in a release."""

    name: str
    mode: Literal["distributed", "local"]
    clip_norm: float
    adaptive_clip: dict[str, float] | None
    noise_multiplier: Amount | None
    share_variance: Count
    rounds_per_client: Count
    units_per_client: Count
    rounds_per_unit: Count
    releases_per_round: Count
    reward_noise_multiplier: float | None
    unit_blocks: Count
    budgets: Count
    sampling: Sampling | None
    randomness: str


class SessionPart(Part, frozen=True):
    """One charged round, in the ledger's order, with the noise that was really there."""

    session: Hex64
    session_number: Count
    training_round: Count
    outcome: Literal["settled", "aborted", "open"]
    charge: Mu2
    noise_multiplier: Amount | None
    survivors: Count | None


class Assumptions(Part, frozen=True):
    """What the claims rest on, the weakest of all rounds, from roster and configuration."""

    adversary: Literal["honest_but_curious", "lying_server"]
    colluders: Count
    quorum: Count
    threshold: Count
    graph: Literal["complete", "sparse"]
    neighbours: Count
    minimum_survivors: Count
    max_corrupt: float
    max_dropout: float
    honest_noise: str
    trusted: str


class Seen(Part, frozen=True):
    """One thing that the server saw, and what covers it."""

    name: str
    cover: Cover
    meaning: str


class LedgerPart(Part, frozen=True):
    """The ledger that the clients signed."""

    size: Count
    root: Hex64
    notes: Count
    signed_by_at_least: Count


class Results(Part, frozen=True):
    """Figures on the public evaluation set; None where the last examination failed.

    `fgrpo verify --evaluate` measures them again.
    """

    reward_initial: float
    reward_final: float | None
    pass_rate_initial: float
    pass_rate_final: float | None
    pass_rate_greedy_initial: float
    pass_rate_greedy_final: float | None


class Unsigned(Part, frozen=True):
    """How far a run came for which no client signed."""

    rounds: Count
    stopped: str | None


class Asserted(Part, frozen=True):
    """What only the server knows: no client signed it, and no arithmetic gives it. A closed list.

    `unsigned` is how far a run without differential privacy came: it charges nothing, so that nobody signed.
    """

    operator: tuple[str, ...]
    started: str
    ended: str | None
    unsigned: Unsigned | None
    results: Results
    audits: tuple[Audit, ...]


class Statement(Part, frozen=True):
    """What one finished run guarantees, to whom, by what mechanism, under which assumptions, and what it does not."""

    format: Literal["fgrpo-privacy-statement/2"]
    run: RunPart
    origins: Origins
    unit: Literal["client", "subject", "prompt_group", "none"]
    adjacency: str | None
    claims: Claims | None
    mechanism: Mechanism | None
    rounds: tuple[SessionPart, ...]
    composition: str | None
    assumptions: Assumptions
    server_saw: tuple[Seen, ...]
    not_protected: tuple[str, ...]
    versions: dict[str, str]
    ledger: LedgerPart | None
    asserted: Asserted


class Signature(Part, frozen=True):
    """The server's Ed25519 signature over the statement without it (`storage/signed_file.py`)."""

    key: Hex64
    value: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]


class SignedStatement(Statement, frozen=True):
    """The file."""

    signature: Signature


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of privacy_statement.json, from the types above."""
    return msgspec.json.schema(SignedStatement)


def builtins(statement: Statement) -> dict[str, Any]:
    """As JSON has it."""
    made: dict[str, Any] = msgspec.to_builtins(statement)
    return made


def clip_rule(rule: AdaptiveClip | None) -> dict[str, float] | None:
    """The rule by which the clip norm follows a quantile of norms; None where it is fixed."""
    return None if rule is None else {name: float(value) for name, value in rule.model_dump().items()}
