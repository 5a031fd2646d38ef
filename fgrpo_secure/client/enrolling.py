"""A new owner's folder: a secret key, a policy with every rule commented, and the file that says what it trains on."""

from pathlib import Path

from fgrpo_secure.client import drafted_policy
from fgrpo_secure.config import own_file
from fgrpo_secure.config.own_file import OwnFile
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.storage import identity_file
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.run_directory import write_durably
from protocols.identity import Identity
from protocols.roster import enrolment_line


def enrol(root: Path, own: OwnFile, entropy: Entropy) -> ClientFolder:
    """Make the folder. ClientFolderError if something is there already, ConfigError if `own` is not complete."""
    folder = ClientFolder.make(root)
    seed = entropy.bytes(identity_file.SEED_BYTES, "identity")
    identity_file.write(folder.identity, own.name, seed)
    # Readable by nobody else: a policy says what an owner would accept, which a server could go to the edge of.
    write_durably(folder.policy, drafted_policy.draft(own.name).encode(), mode=0o600)
    write_durably(folder.own_file, own_file.dump(own).encode(), mode=0o600)
    return folder


def line(folder: ClientFolder) -> str:
    """What the owner hands to the authority: name, public key, and the proof that it holds the key."""
    return enrolment_line(Identity.from_seed(folder.seed()), folder.name)
