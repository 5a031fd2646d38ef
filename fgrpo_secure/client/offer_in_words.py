"""What an owner is asked to agree to, in words: the run as its own machine computed it."""

from fractions import Fraction

from fgrpo_secure.client.joining import Offer
from fgrpo_secure.config.grpo import Grpo
from fgrpo_secure.storage.invitation import OVER_A_PIPE


def lines(offer: Offer) -> list[str]:
    """One line for each thing that is pinned, or that it protects or costs."""
    made, config, parameters = offer.invitation, offer.config, offer.plan.parameters
    named = config.adapter.targets
    targets = "every linear layer" if isinstance(named, str) else ", ".join(named)
    policy = "forbids it" if offer.objection else "allows it"
    lies = config.aggregation.adversary == "lying_server"
    adversary = "a server that lies" if lies else "a server that follows the rules and is curious"
    checked = "public certificates" if made.ca is None else "the certificates in the invitation"
    place = f"at {made.url}, found by {checked}" if made.url != OVER_A_PIPE else "reached over pipes alone"
    told = {
        "run": f"{config.run.name!r}, identity {made.run}",
        "trains": f"{offer.plan.trained:,} numbers of an adapter on {targets}, in {config.federation.rounds} rounds",
        "model": f"{config.model.path!r}, digest {made.model}",
        "with": f"{config.clients_total} organisations; you are {offer.name!r}, client {offer.client} on the roster",
        "withstands": f"{adversary}, with {parameters.colluders} of the clients on its side",
        "opens": f"sums only, and none of fewer than {parameters.floor} clients",
        "costs": _cost(offer),
        "server": f"key {made.server}, {place}",
        "authority": f"key {made.authority}; its roster, version {offer.roster.version}, enrols your key",
        "policy": f"{policy}: {offer.objection or _afterwards(offer)}",
    }
    if config.grpo.chat_template_kwargs:
        told["template"] = variables(config.grpo)
    if config.run.entropy == "seeded":
        told["WARNING"] = (
            "the run takes keys and noise from a seed that everybody knows (run.entropy = 'seeded'): yours come from "
            "your own system, unless privacy.entropy in your policy says 'seeded', which gives no privacy"
        )
    return [f"{name:10} {said}" for name, said in told.items()]


def variables(settings: Grpo) -> str:
    """What the run has the model's own template make of each row's messages."""
    given = (f"{name} = {value!r}" for name, value in settings.chat_template_kwargs.items())
    return f"the run gives the model's own chat template {', '.join(given)}"


def _cost(offer: Offer) -> str:
    claim = offer.plan.claim
    if claim is None:
        return "nothing is charged: privacy.unit is 'none', so that sums are all that protects"
    unit, rounds = offer.config.privacy.unit.replace("_", " "), offer.plan.rounds_per_client
    return f"epsilon {claim.epsilon:.4g} at delta {claim.delta:g} for each {unit}, in {rounds} rounds"


def _afterwards(offer: Offer) -> str:
    claim = offer.plan.claim
    if claim is None or claim.sampling is not None:
        return "every rule in it holds"
    if offer.budget is None:
        return "every rule in it holds"
    after = offer.policy.reading(offer.spent + Fraction(claim.mu) ** 2, offer.budget)
    return f"your ledger would stand at epsilon {after:.4g} of {offer.policy.privacy.epsilon:g} after the run"
