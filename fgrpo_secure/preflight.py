"""What can be refused before a run is refused here: data, rewards, prompts that do not fit, plans that cannot be.

After a client has accepted a round, a failure that depends on its data must not show; so this is the time to see it.
"""

from fgrpo_secure import run_plan
from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Client, Config
from fgrpo_secure.coupling import SMALL_UNITS
from fgrpo_secure.examination import Examination
from fgrpo_secure.grpo.rollouts import check_prompts
from fgrpo_secure.tasks import TASKS, UnusableData, open_source, open_units, reward_of
from fgrpo_secure.tasks.sources import FileSource

SAMPLED_PROMPTS = 64  # of a procedural task, whose prompts are all alike


def check_clients(config: Config) -> None:
    """Tasks that do not exist, rewards that cannot be found. Raises UnusableData or RewardError."""
    for client in config.client:
        if client.task is not None and client.task not in TASKS:
            raise UnusableData(f"client {client.name!r} has task {client.task!r}; allowed are {', '.join(TASKS)}")
        for spec in (client.reward,) if client.reward is None or isinstance(client.reward, str) else client.reward:
            reward_of(client, spec)


def check(config: Config, policy: Policy, examination: Examination) -> None:
    """Plans that cannot be, data that cannot be read, prompts that do not fit.

    Raises Infeasible, InfeasiblePlan, UnusableData or PromptTooLong.
    """
    run_plan.plan(config, policy)
    length = config.grpo.max_completion_length
    for client in config.client:
        if config.privacy.unit in SMALL_UNITS:
            _check_units(config, policy, client)
            continue
        source = open_source(client, config.run.seed, 0)
        rows = source.rows if isinstance(source, FileSource) else source.batch(0, 0, SAMPLED_PROMPTS)
        check_prompts(policy, [str(row["prompt"]) for row in rows], length)
    for rows in examination.problems.values():
        check_prompts(policy, [str(row["prompt"]) for row in rows], length)


def _check_units(config: Config, policy: Policy, client: Client) -> None:
    table = open_units(client, config.run.seed, 0, config.privacy.unit, config.units_per_client)
    prompts = [str(row["prompt"]) for rows in table.rows.values() for row in rows]
    check_prompts(policy, prompts, config.grpo.max_completion_length)
