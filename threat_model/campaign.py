"""Runs attacks against ours and against their weakened copies, two processes at a time, and judges them."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from fgrpo_secure.evidence.attacks import Verdict
from threat_model.attack import Attack, Weakening
from threat_model.driver import Answer, AttackBroke, run_apart
from threat_model.registry import family_of
from threat_model.weakened import diff

PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Result:
    """One attack, run twice. `evidence` is what ours refused with, what the weakened copy gave away, and the diff."""

    attack: str
    adversary: str
    ours: Verdict
    weakened: Verdict
    evidence_ours: str
    evidence_weakened: str
    diff: str
    seconds: float
    figures_ours: Mapping[str, float]
    figures_weakened: Mapping[str, float]

    @property
    def holds(self) -> bool:
        """Whether the attack failed on ours and proved on the weakened copy that it is one."""
        return self.ours is Verdict.FAILED and self.weakened is Verdict.SUCCEEDED


def run(attacks: Sequence[Attack], finished: Callable[[Result], None] = lambda result: None) -> list[Result]:
    """Runs each attack twice and calls `finished` as each is judged; results come in the order of `attacks`.

    Raises CannotWeaken, before anything runs, if a weakening does not fit the source.
    """
    changes = {attack.name: diff(attack.weakenings) for attack in attacks}
    results: dict[str, Result] = {}
    with ThreadPoolExecutor(PROCESSES) as pool:
        pending = {pool.submit(_run_twice, attack, changes[attack.name]): attack for attack in attacks}
        for done in as_completed(pending):
            result = done.result()
            results[result.attack] = result
            finished(result)
    return [results[attack.name] for attack in attacks]


def _run_twice(attack: Attack, change: str) -> Result:
    ours, weakened = run_once(attack, ()), run_once(attack, attack.weakenings)
    return Result(
        attack.name,
        attack.adversary,
        _verdict(ours),
        _verdict(weakened),
        ours if isinstance(ours, str) else ours.evidence,
        weakened if isinstance(weakened, str) else weakened.evidence,
        change,
        sum(answer.seconds for answer in (ours, weakened) if isinstance(answer, Answer)),
        {} if isinstance(ours, str) else ours.figures,
        {} if isinstance(weakened, str) else weakened.figures,
    )


def run_once(attack: Attack, weakenings: Sequence[Weakening]) -> Answer | str:
    """One run on a copy weakened so, or what broke it."""
    try:
        return run_apart(attack, family_of(attack.name), weakenings)
    except AttackBroke as problem:
        return str(problem)


def _verdict(answer: Answer | str) -> Verdict:
    if isinstance(answer, str):
        return Verdict.BROKE
    return Verdict.SUCCEEDED if answer.succeeded else Verdict.FAILED
