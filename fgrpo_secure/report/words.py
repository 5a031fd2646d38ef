"""What a report says in sentences: for somebody in a hurry, and for whoever must put a name under it."""

import math
from collections.abc import Iterator

from fgrpo_secure.evidence.statement_form import Assumptions, Mechanism
from fgrpo_secure.report.facts import RunFacts

RATES = ("initial", "final", "greedy_initial", "greedy_final")
NOTE_WITHOUT_PRIVACY = "No differential privacy: what protects is the aggregation alone. The server learns exact sums."
SERVER = {
    "honest_but_curious": "The server follows the protocol, and tries to learn what it can from all that it sees.",
    "lying_server": "The server may deviate from the protocol in any way.",
}


def in_plain_words(facts: RunFacts) -> list[tuple[str, str]]:
    """(question, answer): what somebody in a hurry must know, in an order that can be read alone."""
    words = [
        ("What was learned?", _learned(facts)),
        ("What was spent?", _spent(facts)),
        ("What is guaranteed, against whom?", _guarantee(facts)),
    ]
    if facts.stated.run.reproducible_entropy:
        words.append(
            ("Is it private?", "No: this run used reproducible randomness, for tests. Anybody can compute it.")
        )
    return words


def _learned(facts: RunFacts) -> str:
    found = {name: facts.summary[f"pass_rate.{name}"] for name in RATES}
    rates = {name: "unknown" if rate is None else f"{rate:.1%}" for name, rate in found.items()}
    measured = facts.verified is not None and facts.verified.measured is not None
    who = "measured again when this was drawn" if measured else "asserted by the server"
    return (
        f"On public problems that nobody trained on, the pass rate went from {rates['initial']} to {rates['final']} "
        f"(likeliest answer: {rates['greedy_initial']} to {rates['greedy_final']}), over {facts.stated.run.clients} "
        f"data owners and {facts.stated.run.rounds} rounds. These rates are {who}."
    )


def _spent(facts: RunFacts) -> str:
    claims = facts.stated.claims
    if claims is None:
        return "Nothing is accounted: the run has no differential privacy."
    claim = claims.server
    return (
        f"epsilon {claim.epsilon_spent:.2f} of the {claim.epsilon:.2f} allowed, at delta {claim.delta:g}, "
        f"for each {facts.unit}."
    )


def _guarantee(facts: RunFacts) -> str:
    claims, assumed = facts.stated.claims, facts.stated.assumptions
    if claims is None:
        return NOTE_WITHOUT_PRIVACY
    claim = claims.server
    return (
        f"Whatever the server, with up to {_count(assumed.colluders, 'colluding data owner')}, or a reader of the "
        f"model does: taking part changes the odds of any conclusion about a {facts.unit} by at most a factor of "
        f"e^{claim.epsilon_spent:.2f} ({_large(claim.epsilon_spent)}), but for a chance of {claim.delta:g}. The server "
        f"saw only sums over {assumed.minimum_survivors} or more data owners. {SERVER[assumed.adversary]}"
    )


def _large(epsilon: float) -> str:
    return f"about {math.exp(epsilon):,.3g}" if epsilon < 6 else f"about {math.exp(min(epsilon, 700)):,.0f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def standing(facts: RunFacts) -> str:
    """What this page rests on: said first, as whoever signs it signs that, too."""
    seen = facts.verified
    if seen is None:
        return (
            "Drawn by the server itself when the run ended, and checked by nobody. A page to sign is drawn by "
            "fgrpo report, from what it verified first."
        )
    return (
        f"Drawn from documents of which every check of fgrpo verify held before. Key of the authority: "
        f"{_known(seen.authority_known)}. Key of the server: {_known(seen.server_known)}."
    )


def _known(given: bool) -> str:
    return (
        "the one that whoever drew this page knew"
        if given
        else "named in the files only, so compare it before you sign"
    )


def assumptions(facts: RunFacts) -> list[str]:
    """What the claims rest on, sentence by sentence."""
    return list(_assumed(facts.stated.assumptions, facts.stated.mechanism))


def _assumed(assumed: Assumptions, mechanism: Mechanism | None) -> Iterator[str]:
    yield SERVER[assumed.adversary]
    yield (
        f"At most {_count(assumed.colluders, 'data owner')} of a session, {assumed.max_corrupt:.0%} of the roster, "
        "tell the server what they know."
    )
    yield (
        f"A sum is opened only over {assumed.minimum_survivors} or more data owners, and only if {assumed.quorum} of "
        f"them agree on who is in it; a session outlives the loss of {assumed.max_dropout:.0%} of its data owners."
    )
    pairs = "every other" if assumed.graph == "complete" else "some of the others"
    yield (
        f"Each data owner masks against {pairs} ({assumed.neighbours} at least); {assumed.threshold} of these together "
        "can take a mask away, fewer cannot."
    )
    if mechanism is not None and mechanism.mode == "local":
        yield "Each data owner adds all of its noise itself."
    elif mechanism is not None:
        honest = assumed.minimum_survivors - assumed.colluders
        yield f"Noise shares of {honest} honest data owners at least are in every sum, and suffice for the claim."
    yield f"Trusted are {assumed.trusted}."


def mechanism(facts: RunFacts) -> list[tuple[str, str]]:
    """(what, how): the way from an update to a guarantee."""
    stated, found = facts.stated, facts.stated.mechanism
    if found is None or stated.claims is None:
        return []
    claim, noise = stated.claims.server, found.noise_multiplier
    rows = [
        ("Whom it protects", f"each {facts.unit}; {stated.adjacency}"),
        ("Noise", f"{found.name}; {found.randomness}"),
        ("Noise multiplier, planned", "-" if noise is None else f"{noise:.4g} times the clip norm, in each sum"),
        ("Clip norm (L2)", f"{found.clip_norm:g}" + (", then moving with a quantile" if found.adaptive_clip else "")),
        ("Rounds of one data owner", f"{found.rounds_per_client} at most"),
        ("Composition", str(stated.composition)),
        (
            "Delta",
            "; ".join(f"{name.replace('_', ' ')} {part:.2g}" for name, part in claim.delta_parts.items() if part),
        ),
    ]
    if stated.unit in ("subject", "prompt_group"):
        rows.insert(
            5,
            (
                f"Of one {facts.unit}",
                f"{found.rounds_per_unit} rounds at most; {found.units_per_client} for each owner",
            ),
        )
    if found.sampling is not None:
        rows.insert(5, ("Sampling", f"by secret draw, at rate {found.sampling.rate:.3g}"))
    if claim.mu is not None:
        rows.append(("Gaussian differential privacy", f"mu {claim.mu:.4g} for the whole run"))
    groups = ((2, claim.epsilon_group_of_2), (5, claim.epsilon_group_of_5))
    rows += [(f"A group of {size}", f"epsilon {value:.3g}") for size, value in groups if value is not None]
    return rows


def charges(facts: RunFacts) -> str:
    """What a charge is, and what it is a part of."""
    found, history = facts.stated.mechanism, facts.basis.history
    if found is None or history is None:
        return ""
    budget = f"{float(history.budget):.4g}"
    if found.sampling is not None:
        return (
            f"With secret sampling a charge is a round's share of the budget that was fixed before the run ({budget}); "
            "it stands for no epsilon of its own."
        )
    whose = "" if found.budgets == 1 else f", the budgets of {found.budgets} {facts.unit}s in blocks"
    return (
        "A charge is mu squared: a round that is charged m is, alone, Gaussian differential privacy of mu = √m. "
        f"Charges add up, and together must stay within {budget}{whose}. They are exact fractions; each stands beside "
        "its value."
    )
