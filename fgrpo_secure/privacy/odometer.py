"""What delta is made of, and what may be said to be spent when somebody else decides when a run ends.

Whoever sees the sums may stop a run, or drop clients from it, at the moment that suits it best. Then "the epsilon of
the charges so far, at delta" is no guarantee: its real delta is several times the stated one. An odometer is: levels of
the budget are fixed before the run, each with a part of delta of its own, and what is said is the epsilon of the lowest
level that the charges fit in (proof in docs/explanation/privacy.md). The last level is the whole budget and keeps
nearly all of delta, so that a run that ends as planned reads what was planned.

The filter (`accounting.Filter`) stays the ledger of record: it decides whether a round may be; this says what was.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from fgrpo_secure.privacy.accounting import Slack, checked_delta, epsilon_of
from fgrpo_secure.privacy.sampled import Sampling

EARLY = 0.01  # of delta: shared by all levels below the last
LEVELS = tuple(2.0 ** (-step / 2) for step in range(20, 0, -1))  # of the budget, below the whole: 1/1024 to 0.71
PARTS = ("sparse_graphs", "early_end", "sampler_and_lemma", "mechanism")
GRAPH_FAILURE = 2.0**-40  # of a session on a sparse graph: `protocols.tails.SIGMA`


@dataclass(frozen=True, slots=True)
class Delta:
    """A claim's delta by what may fail. `sampler` is the part inside `planned` that the noise sampler's table takes."""

    total: float
    graph: float  # sessions whose sparse graph does not hide all but the sum
    early: float  # readings of runs that ended, or were ended, before their budget was spent

    @staticmethod
    def split(total: float, sparse_sessions: int) -> "Delta":
        """`total` by parts; `sparse_sessions` on a sparse graph may hold a unit. ValueError if they use up half."""
        checked_delta(total)
        graph = sparse_sessions * GRAPH_FAILURE
        if graph > total / 2:
            raise ValueError(
                f"delta = {total:g} is no more than twice what {sparse_sessions} sparse graphs fail with, {graph:.3g}"
            )
        return Delta(total, graph, EARLY * (total - graph))

    @property
    def planned(self) -> float:
        """What is left for the whole budget."""
        return self.total - self.graph - self.early

    def facts(self, slack: Slack, epsilon: float) -> dict[str, float]:
        """Every part by its name."""
        sampler = self.planned - slack.left(epsilon, self.planned)
        return dict(zip(PARTS, (self.graph, self.early, sampler, self.planned - sampler), strict=True))


@dataclass(frozen=True, slots=True)
class Odometer:
    """Readings for one run. `budget` is one unit's, as mu^2; with `sampling` a charge is a share of it."""

    budget: Fraction
    delta: Delta
    slack: Slack
    sampling: Sampling | None = None

    def read(self, spent: Fraction) -> float:
        """The epsilon of what was charged, at `delta.total`, valid whenever and for whatever reason the run ended."""
        if not spent:
            return 0.0
        below = [level for level in LEVELS if spent <= Fraction(level) * self.budget]
        # A union bound over levels that were fixed before the run: whoever ends it chooses among these claims, and all
        # of them hold at once but for `early`.
        share = self.delta.early / len(LEVELS)
        # `spent` where a ledger was charged above this run's budget, as by earlier runs: never less than what was paid.
        whole = self.epsilon(max(self.budget, spent), self.delta.planned)
        return min([whole, *(self.epsilon(Fraction(level) * self.budget, share) for level in below)])

    def epsilon(self, spent: Fraction, delta: float) -> float:
        """The epsilon, at `delta`, of a run whose filter stands at `spent`."""
        return self.slack.epsilon_by(self._curve(spent), delta)

    def _curve(self, spent: Fraction) -> Callable[[float], float]:
        sampling = self.sampling
        if sampling is None:
            mu = math.sqrt(spent)
            return lambda delta: epsilon_of(mu, delta)
        # Up: a charge that is a part of a release is counted as a whole one.
        releases = min(sampling.releases, math.ceil(spent / self.budget * sampling.releases))
        return lambda delta: sampling.epsilon(delta, releases)


def group(slack: Slack, mu: float, size: int, delta: float) -> float:
    """epsilon for `size` units together, or for one whose data lies with `size` clients: they move a sum by so many
    bounds, which is mu times `size` (Dong, Roth, Su 2019, Theorem 2.14), and no multiple of epsilon."""
    return slack.epsilon(size * mu, delta)
