"""What an organisation can try by itself before a run: its model, its data, its rewards. Nothing is sent or charged."""

from fgrpo_secure.client import joining
from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.config import own_file
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.plan import adapter_shape, run_plan
from fgrpo_secure.run import preflight, rehearsal
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.invitation import InvitationError


def attempt(folder: ClientFolder, run: str) -> str:
    """What was tried, in words, for the owner's eyes. Raises UnusableInput with the first thing that would fail."""
    made = folder.invitation(run)
    config, own = joining.configuration(made), own_file.load(folder.own_file)
    own_file.check_unit(own, config.privacy.unit, str(folder.own_file))
    client_policy.read(folder.policy)
    base = models.load(own.model(config.model))
    if base.digest.hex() != made.model:
        raise InvitationError(
            f"the base model {own.model(config.model).path!r} has digest {base.digest.hex()}, the run's {made.model}; "
            f"name the right one in {folder.own_file} under machine.model"
        )
    adapted = adapters.attach(base, config.adapter, config.run.seed)
    tried = preflight.try_own(config, adapted, own)
    found = rehearsal.rehearse(config, adapted, own.client())
    privacy = run_plan.plan(config, adapter_shape.of(adapted))
    return "\n".join([f"{own.name}: {tried}", *rehearsal.lines(found, config, privacy)])
