"""Joining a run: what an invitation amounts to, said in words, what the owner's policy says of it, and the pin.

    invitation -> configuration, rosters: is it the run that it says? -> plan, as this client computes it
               -> the owner's policy and ledger: allowed, or the rule that forbids it
               -> the owner agrees -> identity into the books, authority and model into the policy, invitation kept

Nothing is written before the owner agrees, and nothing of it is believed because the server says it: what a server
may claim freely (its name, its address) protects nobody.
"""

from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.client import drafted_policy
from fgrpo_secure.client.book import Book
from fgrpo_secure.client.membership import Trust
from fgrpo_secure.client.policy import ClientPolicy, Known
from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config import model_files, own_file
from fgrpo_secure.config.own_file import OwnFile
from fgrpo_secure.config.schema import Config
from fgrpo_secure.errors import CheckFailed, UnusableInput
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import adapter_shape, run_plan, schedule
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.plan.cost import InfeasiblePlan, PrivacyPlan
from fgrpo_secure.storage import invitation as invitation_file
from fgrpo_secure.storage import opening
from fgrpo_secure.storage.client_folder import ClientFolder, ClientFolderError
from fgrpo_secure.storage.invitation import Invitation, InvitationError
from fgrpo_secure.storage.run_directory import RunDirectoryError, write_durably
from protocols.errors import BadSignature, ProtocolError, Refused
from protocols.identity import Identity
from protocols.params import Infeasible
from protocols.roster import Roster, open_roster

HEADER_ROOM = 64 << 10  # bytes by which a safetensors header may be longer than ours
LOADED = ("adapter", "frozen", "model", "tokenizer")


class PolicyForbids(CheckFailed, ValueError):
    """The owner's own policy does not allow the run; the sentence names the rule."""


@dataclass(frozen=True)
class Offer:
    """A run as this client understands it. `policy_text` is what its file would say once it has joined.

    `objection` is the rule of the owner's that forbids it, None if none does; `spent` and `budget` are sums of mu^2.
    """

    invitation: Invitation
    config: Config
    roster: Roster
    client: int
    name: str
    plan: PrivacyPlan
    policy: ClientPolicy
    policy_text: str
    spent: Fraction
    budget: Fraction | None
    objection: str | None
    adapter_bytes: int


def configuration(invitation: Invitation) -> Config:
    """The run's configuration, if it and the first roster are those that the run's identity names.

    InvitationError otherwise, or if it names owners, as a trial on one machine does.
    """
    try:
        config = config_file.parse_text(invitation.config, "the invitation's configuration")
        begun = opening.decode(invitation.opening.encode())
        first = open_roster(invitation.first_roster_bytes, bytes.fromhex(invitation.authority), 1)
        name = opening.check(begun, config, first)
    except (UnusableInput, RunDirectoryError, ProtocolError, ValueError) as problem:
        raise InvitationError(f"the invitation does not hold together: {problem}") from None
    # The run's name is a hash of all of it: an invitation with one key or limit changed names another run.
    if name.hex() != invitation.run or begun.server != invitation.server:
        raise InvitationError("the invitation does not hold together: it names another run or server than its opening")
    if config.engine.kind != "https":
        raise InvitationError("the invitation is to a trial on one machine, which has no other clients")
    return config


def examine(folder: ClientFolder, invitation: Invitation) -> Offer:
    """What the run is and whether the owner's policy allows it. Changes nothing.

    Raises UnusableInput for an invitation, a policy or an own file that cannot be used, or a roster without this owner.
    """
    config = configuration(invitation)
    identity = Identity.from_seed(folder.seed())
    roster = invitation.members()
    client = _client(folder, roster, identity.public)
    own = own_file.load(folder.own_file)
    own_file.check_unit(own, config.privacy.unit, str(folder.own_file))
    text = folder.policy.read_text("utf-8") if folder.policy.is_file() else drafted_policy.draft(own.name)
    policy, agreed = drafted_policy.agreed(text, invitation.authority, invitation.model, str(folder.policy))
    shape = _shape(config, own, invitation.model)
    rewards = len(own.client().rewards)
    plan, objection = _planned(config, shape, roster, invitation, policy, rewards)
    spent, sessions = _spent(folder, client)
    budget = None if plan.claim is None else policy.budget_for(plan.claim)
    elsewhere = sessions if invitation.run not in folder.pinned() else 0
    objection = objection or _alone(config, elsewhere) or _affordable(plan, budget, spent, sessions, policy)
    # What the server may send as an adapter later: without a bound it could fill the owner's disk.
    most = shape.file_bytes + HEADER_ROOM
    return Offer(invitation, config, roster, client, own.name, plan, policy, agreed, spent, budget, objection, most)


def join(folder: ClientFolder, offer: Offer, source: Path) -> None:
    """Pin the run whose invitation lies at `source`; joining twice changes nothing.

    Raises PolicyForbids if the owner's policy does not allow it, InvitationError if the file is no longer that which
    the offer was made from.
    """
    if offer.objection is not None:
        raise PolicyForbids(f"the policy in {folder.policy} does not allow this run: {offer.objection}")
    with folder.claimed():
        # Under the folder's lock: a second join at the same time would find the seed half moved into the books.
        seed = folder.seed()
        with closing(ClientStore(folder.state)) as store, store.transaction():
            if not store.is_enrolled(offer.client):
                store.enrol(offer.client, seed)
            made = offer.invitation
            trust = Trust(store, bytes.fromhex(made.authority), bytes.fromhex(made.server), made.first_roster_bytes)
            trust.see(made.roster_bytes)
        folder.identity.unlink(missing_ok=True)  # from here on it lies in the books, which a rotation changes
        write_durably(folder.policy, offer.policy_text.encode(), mode=0o600)
        kept = folder.invitation_path(made.run)
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = kept.with_name("agreed.json")
        # Read again and compared: the file may have changed between what the owner saw and its consent.
        write_durably(aside, source.read_bytes(), mode=0o600)
        if invitation_file.read(aside) != made:
            aside.unlink()
            raise InvitationError(f"{source} is not the invitation any more that was shown")
        write_durably(folder.adapter_bytes_path(made.run), f"{offer.adapter_bytes}\n".encode(), mode=0o600)
        # Last: an invitation that is kept is a run that was joined, with all that it needs on disk.
        aside.replace(kept)


def leave(folder: ClientFolder, run: str) -> None:
    """Take no further part in a run. Books stay: an open session is closed, and refunded only if nothing left."""
    made, client = folder.invitation(run), folder.client_id(run)
    with folder.claimed(), closing(Book.at(folder.state, folder.ledgers)) as book, book.refunding():
        public, records = Identity.from_seed(book.store.identity_seed(client)).public, book.store.sessions
        ledgers = [book.ledgers.existing(name) for name in book.ledgers.owners()]
        # Of this run alone: the folder may be in others, whose sessions go on.
        for session in records.open_sessions(public, bytes.fromhex(made.server), bytes.fromhex(run)):
            left = records.close(public, session)
            for ledger in ledgers:
                if ledger.is_open(session):
                    ledger.abort(session, refund=not left)
        folder.invitation_path(run).replace(folder.invitation_path(run).with_name("left.json"))


def _client(folder: ClientFolder, roster: Roster, public: bytes) -> int:
    """The owner's id on the roster. Raises UnusableInput if it enrols another key, or the owner under another id."""
    found = [entry.id for entry in roster.members if entry.public == public]
    enrolled = folder.enrolled()
    if not found:
        raise InvitationError(
            f"the roster in the invitation does not enrol the key of {folder.root}; give its enrolment line to the "
            "authority (`fgrpo client show` prints it)"
        )
    # A folder is one client of one federation: its counters and ledgers under another id would begin at zero.
    if enrolled is not None and enrolled[0] != found[0]:
        raise ClientFolderError(
            f"{folder.root} is client {enrolled[0]} of another federation; join this one with a folder of its own"
        )
    return found[0]


def _planned(
    config: Config, shape: AdapterShape, roster: Roster, made: Invitation, policy: ClientPolicy, rewards: int
) -> tuple[PrivacyPlan, str | None]:
    """The plan of the run with those who may take part today, and the rule of the owner's that its rounds break."""
    today = entropy.today()
    try:
        first = run_plan.plan(config, shape)
        clients = schedule.clients(config, roster, today)
        plan = run_plan.replan(config, shape, first, len(clients), len(roster))
    except (Infeasible, InfeasiblePlan, Refused) as problem:
        raise InvitationError(f"the run in the invitation cannot be: {problem}") from None
    demands, run = run_plan.demands(config, plan), bytes.fromhex(made.run)
    # Nothing is loaded yet: the invitation's model counts, and each round compares what really was (`open_plan`).
    loaded = dict.fromkeys(LOADED, bytes(32)) | {"model": bytes.fromhex(made.model)}
    known = Known(_goes_back(roster, made, policy), len(roster), 0, plan.claim, rewards)
    shard = schedule.partition(config, roster.digest, 0, clients)[0]
    try:
        round_plan = run_plan.open_round(config, plan, roster, loaded, 0, 0, shape.dimension(0), shard, run)
        policy.admit(round_plan, demands.admit(round_plan, shape.dimension(0)), known)
    except Refused as refusal:
        return plan, refusal.reason
    return plan, None


def _shape(config: Config, own: OwnFile, digest: str) -> AdapterShape:
    """The adapter's shape by the model's files here; by the loaded model where they do not say.

    InvitationError where there are no files. **Why** The name in a configuration is the server's choice: nothing is
    fetched from anywhere before the owner agrees.
    """
    model = own.model(config.model)
    found = adapter_shape.read(model.path, config.adapter)
    if found is not None:
        return found
    if model_files.folder(model.path) is None:
        raise InvitationError(
            f"the run's base model {model.path!r} is no folder here, and joining fetches nothing; fetch it yourself "
            "and name its folder in client.toml as machine.model"
        )
    from fgrpo_secure.learning import adapters, models  # takes seconds to import

    base = models.load(model)
    if base.digest.hex() != digest:
        raise InvitationError(f"the base model in {model.path!r} has digest {base.digest.hex()}, the run's {digest}")
    return adapter_shape.of(adapters.attach(base, config.adapter, config.run.seed))


def _goes_back(roster: Roster, made: Invitation, policy: ClientPolicy) -> bool:
    """Whether the authority in the owner's file, or one that it handed over to, signed the roster."""
    try:
        open_roster(made.roster_bytes, bytes.fromhex(policy.trust.authority), roster.version)
    except BadSignature:
        return False
    return True


def _spent(folder: ClientFolder, client: int) -> tuple[Fraction, int]:
    """What the owner's ledgers show over all runs, of the units that paid most, and in how many sessions."""
    if not folder.ledgers.is_file():
        return Fraction(0), 0
    with closing(Ledgers.read(folder.ledgers)) as store:
        names = [name for name in store.owners() if name == str(client) or name.startswith(f"{client}/")]
        ledgers = [store.existing(name) for name in names]
        spent = max((ledger.spent() for ledger in ledgers), default=Fraction(0))
        return spent, sum(ledger.sessions() for ledger in ledgers)


def _alone(config: Config, elsewhere: int) -> str | None:
    """Why the run cannot follow so many sessions of others; see `own_limits.refuse_mixed_budgets`."""
    for key in ("sampling_rate", "max_rounds_per_unit"):
        if elsewhere and getattr(config.privacy, key) is not None:
            return (
                f"privacy.{key}: rounds of a part of your units are accounted alone, and your ledger has {elsewhere} "
                "session(s) of other runs; only rounds of all units add up"
            )
    return None


def _affordable(
    plan: PrivacyPlan, budget: Fraction | None, spent: Fraction, sessions: int, policy: ClientPolicy
) -> str | None:
    """Why the owner's budget does not cover the whole run after earlier ones; None if it does."""
    if plan.claim is None or budget is None or plan.claim.sampling is not None:
        return None
    most, left = policy.privacy.max_sessions, policy.privacy.max_sessions - sessions
    if plan.rounds_per_client > left:
        return (
            f"privacy.max_sessions: the run has {plan.rounds_per_client} rounds for you, of {most} you have {left} left"
        )
    needed = spent + Fraction(plan.claim.mu) ** 2
    if needed <= budget:
        return None
    return (
        f"privacy.epsilon: with this run your ledger would stand at epsilon {policy.reading(needed, budget):.5g} "
        f"at delta {policy.privacy.delta:g}; your file allows {policy.privacy.epsilon:g}"
    )
