"""What the owners of a host joined, read from their own files: a trial's common folder, or one owner's own.

trial    <run>.owners/: pins, policies, stores of all; the [[client]] tables say who trains on what
owner    its folder alone: the invitation that it agreed to, client-policy.toml, client.toml
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fgrpo_secure.client import joining
from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.client.owner import Owner, make_own, make_owners
from fgrpo_secure.client.policy import ClientPolicy
from fgrpo_secure.config import own_file
from fgrpo_secure.config.schema import Config, Model
from fgrpo_secure.engines import enrolment
from fgrpo_secure.storage import opening, rosters
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.owners_folder import Enrolled
from fgrpo_secure.storage.rosters import Pins
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError


@dataclass(frozen=True)
class Joined:
    """`run` is the run's identity, `roster` the signed one to begin with where none is stored; `next_key` says where an
    owner, by name, puts the identity file of its next key; `model` is the base model as it lies on this machine."""

    config: Config
    run: bytes
    pins: Pins
    roster: bytes
    model: Model
    next_key: Callable[[str], Path]
    owners: tuple[tuple[Owner, ClientPolicy], ...] = field(repr=False)
    threads: int = 1  # that training may use


def in_trial(directory: RunDirectory, config: Config, index: int, count: int) -> Joined:
    """The owners of host `index` of `count`. RunDirectoryError if they did not join the run in `directory`."""
    run = opening.check(opening.read(directory), config, rosters.first(directory))
    if run.hex() not in Enrolled.read(directory.owners).runs:
        raise RunDirectoryError(f"the data owners in {directory.owners} have not joined the run in {directory.root}")
    ids, folder = set(range(index, config.clients_total, count)), directory.owners / f"host-{index}"
    made = make_owners(config.client, config.run.seed, ids, folder, config.privacy.unit, config.units_per_client)
    # What Ray set aside for this process; model.device says where the server's copy lies, which may have none.
    given = {"device": "cuda"} if config.engine.gpus else {}
    return Joined(
        config,
        run,
        rosters.pins(directory),
        directory.roster.read_bytes(),
        config.model.model_copy(update=given),
        lambda name: enrolment.replacement_key(directory, name),
        tuple((owner, client_policy.load(directory.owners, owner.name)) for owner in made.values()),
    )


def by_owner(folder: ClientFolder, run: str) -> Joined:
    """One organisation, by its folder. Raises UnusableInput naming the file that cannot be used."""
    invitation = folder.invitation(run)
    config, own = joining.configuration(invitation), own_file.load(folder.own_file)
    own_file.check_unit(own, config.privacy.unit, str(folder.own_file))  # it may have been edited since it joined
    unit, most = config.privacy.unit, config.units_per_client
    owner = make_own(own, folder.client_id(run), config.run.seed, folder.log, unit, most)
    return Joined(
        config,
        bytes.fromhex(run),
        Pins(bytes.fromhex(invitation.authority), bytes.fromhex(invitation.server)),
        invitation.roster_bytes,
        own.model(config.model),
        lambda _: folder.next_identity,
        ((owner, client_policy.read(folder.policy)),),
        own.machine.threads,
    )
