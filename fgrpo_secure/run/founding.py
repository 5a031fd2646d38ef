"""A run whose clients have machines of their own, at its server, before it starts.

    server new      configuration, the authority's public key -> run directory, the server's key in `<run>.server/`
    server invite   the authority's signed roster -> the run begins: opening.json, its identity -> an invitation file

Everything that can be refused without the clients' data is refused here: their data is theirs to look at.
"""

from dataclasses import dataclass
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.config.schema import Config
from fgrpo_secure.learning.tasks import evaluation_sets
from fgrpo_secure.plan import adapter_shape, run_plan, schedule
from fgrpo_secure.plan.cost import InfeasiblePlan
from fgrpo_secure.storage import invitation, opening, rosters
from fgrpo_secure.storage.invitation import Invitation
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, write_durably
from protocols.errors import ProtocolError, Refused
from protocols.identity import Identity
from protocols.member import accept_roster
from protocols.roster import Roster, open_roster

SEED_BYTES, NONCE_BYTES = 32, 32


@dataclass(frozen=True)
class Address:
    """Where clients find the server: its URL, and the certificates (PEM) to check it by; None: public ones."""

    url: str
    ca: str | None


def found(config: Config, directory: RunDirectory, authority: bytes) -> bytes:
    """Make the directory and the server's key, and give its public half. ConfigError for a trial's configuration."""
    if config.engine.kind != "https":
        raise ConfigError(f"engine.kind is {config.engine.kind!r}, a simulation; a server for others needs 'https'")
    evaluation_sets(config.client, config.evaluation)
    directory.create(config_file.dump(config), authority)
    seed = entropy.OsEntropy().bytes(SEED_BYTES, "identity", "server")
    write_durably(directory.server_key, seed, mode=0o600)
    return Identity.from_seed(seed).public


def invite(directory: RunDirectory, signed: bytes | None, address: Address, out: Path) -> Invitation:
    """Write the invitation file `out`. The first one begins the run, under the roster `signed`.

    Later ones may bring a newer roster, which is also in force from the next session on. Raises RunDirectoryError or
    InvitationError.
    """
    directory.require()
    if not directory.authority.exists():
        raise RunDirectoryError(
            f"{directory.root} is a trial on one machine; `fgrpo server new` makes a run for others"
        )
    config = config_file.load(str(directory.config))
    if not directory.opening.exists():
        with directory.claimed():
            _begin(directory, config, signed)
            signed = None
    known = rosters.roster(directory)
    newest = directory.roster.read_bytes() if signed is None else _newer(directory, known, signed)
    identity = rosters.server_identity(directory)
    pins, begun = rosters.pins(directory), opening.read(directory)
    first = min(
        [*directory.past_roster(0).parent.glob("*.bin"), directory.roster],
        key=lambda path: open_roster(path.read_bytes(), pins.authority, 1).version,
    )
    made = Invitation(
        kind="fgrpo invitation",
        version=1,
        run=begun.run,
        url=address.url,
        ca=address.ca,
        server=pins.server.hex(),
        authority=pins.authority.hex(),
        model=directory.model.read_text("ascii").strip(),
        opening=directory.opening.read_text(),
        config=config_file.dump(config),
        first_roster=invitation.text_of(first.read_bytes()),
        roster=invitation.text_of(newest),
    )
    invitation.write(out, made, identity)
    return made


def too_few(directory: RunDirectory, made: Invitation) -> str | None:
    """Why no further round can be planned under the invitation's roster. None if one can, or if only the model itself
    could tell: its server says so between rounds."""
    config = config_file.load(str(directory.config))
    shape = adapter_shape.read(config.model.path, config.adapter)
    if shape is None:
        return None
    roster = made.members()
    try:
        clients = schedule.clients(config, roster, entropy.today())
        run_plan.replan(config, shape, run_plan.plan(config, shape), len(clients), len(roster))
    except Refused as problem:
        return problem.reason
    except InfeasiblePlan as problem:
        return str(problem)
    return None


def _begin(directory: RunDirectory, config: Config, signed: bytes | None) -> None:
    """The run's first roster, and with it the run's identity. Refuses a plan that cannot be."""
    if signed is None:
        raise RunDirectoryError(f"{directory.root} has no roster yet; give the one that the authority signed")
    identity = rosters.identity_at(directory.server_key)
    authority = rosters.authority(directory)
    roster = _opened(signed, authority)
    if roster.names_key(identity.public):
        raise RunDirectoryError("the roster names the server's key; the server is no client and no authority")
    _check_members(config, roster)
    from fgrpo_secure.learning import adapters, models  # seconds to import, and needed but once in a run

    base = models.load(config.model)
    run_plan.plan(config, adapter_shape.of(adapters.attach(base, config.adapter, config.run.seed)))
    write_durably(directory.model, f"{base.digest.hex()}\n".encode())
    nonce = entropy.OsEntropy().bytes(NONCE_BYTES, "run")
    write_durably(directory.roster, signed)
    opening.write(directory, opening.begin(nonce, identity.public, entropy.utc_now(), config, roster))


def _check_members(config: Config, roster: Roster) -> None:
    try:
        taking_part = schedule.clients(config, roster, entropy.today())
    except Refused as problem:
        raise RunDirectoryError(f"the roster cannot begin a run: {problem.reason}") from None
    if len(taking_part) != config.clients_total or len(roster) != config.clients_total:
        raise RunDirectoryError(
            f"the roster enrols {len(roster)} clients, {len(taking_part)} of them with the ids below "
            f"{config.clients_total}; federation.clients is {config.clients_total}: they must be the same"
        )


def _opened(signed: bytes, authority: bytes) -> Roster:
    try:
        return open_roster(signed, authority, 1)
    except (ProtocolError, ValueError) as problem:
        raise RunDirectoryError(
            f"the roster is not one of the authority that this run was made for: {problem}"
        ) from None


def _newer(directory: RunDirectory, known: Roster, signed: bytes) -> bytes:
    """The signed bytes of a roster that may follow; it is put where the server takes it up."""
    try:
        later = accept_roster(known, signed, rosters.pins(directory).server)
    except ProtocolError as problem:
        raise RunDirectoryError(f"the roster cannot follow the run's version {known.version}: {problem}") from None
    if later.version > known.version:
        write_durably(directory.next_roster, signed)
    return signed
