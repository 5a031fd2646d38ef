"""What a loaded model can refuse before a run: prompts that do not fit, rewards that never work, plans that cannot be.

`inputs` comes first, and needs no model.

After a client has accepted a round, a failure that depends on its data must not show; so this is the time to see it.
"""

from collections.abc import Sequence
from functools import partial

from fgrpo_secure.client.boundary import UnusableRound, contained
from fgrpo_secure.config.own_file import OwnFile
from fgrpo_secure.config.schema import Client, Config
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import prompts, rewards, rollouts
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward
from fgrpo_secure.learning.grpo.rewards import RewardError, RewardFunction
from fgrpo_secure.learning.pass_rates import Examination
from fgrpo_secure.learning.tasks import Row, UnusableData
from fgrpo_secure.plan import adapter_shape, run_plan
from fgrpo_secure.run import inputs, same_data

TRIED_ROWS = 4  # on which a reward must work once


def check(config: Config, adapted: AdaptedModel, examination: Examination) -> None:
    """Plans that cannot be, data that cannot be read, prompts that do not fit, the same data twice, rewards that never
    work.

    Raises Infeasible, InfeasiblePlan, UnusableData or RewardError.
    """
    run_plan.plan(config, adapter_shape.of(adapted))
    same_data.refuse(config)
    for client in config.client:
        rows = inputs.rows(config, client)
        _check_prompts(config, adapted, rows, f"client {client.name!r}")
        _check_rewards(config, adapted, client, rows)
    for name, problems in examination.problems.items():
        _check_prompts(config, adapted, problems, f"evaluation set {name!r}")


def try_own(config: Config, adapted: AdaptedModel, own: OwnFile) -> str:
    """What an organisation's own data and rewards come to on its own machine, in words; see `check`."""
    client = own.client()
    config = config.model_copy(update={"client": (client,)})
    inputs.check_clients(config)
    rows = inputs.rows(config, client)
    _check_prompts(config, adapted, rows, f"client {client.name!r}")
    _check_rewards(config, adapted, client, rows, built_in=True)
    what = f"{len(rows):,} rows" if client.data is not None or client.rows is not None else "a task without end"
    return f"{what}, every prompt fits, and rewards mark what the model writes"


def _check_prompts(config: Config, adapted: AdaptedModel, rows: Sequence[Row], whose: str) -> None:
    try:
        asked, base = [row["prompt"] for row in rows], adapted.base
        contained(lambda: prompts.check(base.tokenizer, asked, config.grpo, base.context_length))
    except UnusableRound as problem:
        raise UnusableData(f"{whose}: a prompt cannot be used: {problem}") from None


def _check_rewards(
    config: Config, adapted: AdaptedModel, client: Client, rows: Sequence[Row], built_in: bool = False
) -> None:
    """Each function is called with real completions of the first few rows; one that never works is refused here.

    Built-in ones are known to work, and are called only where that is asked for.

    **Why** Once the run goes on, a reward that fails is zero and noise, and nobody may be told: a whole budget would
    buy nothing.
    """
    functions = inputs.check_rewards(client, rows)
    own = any(isinstance(each, IsolatedReward) for each in functions)
    if own or built_in:
        _try(config, adapted, client, functions, rows[:TRIED_ROWS])


def _try(
    config: Config, adapted: AdaptedModel, client: Client, functions: Sequence[RewardFunction], rows: Sequence[Row]
) -> None:
    def work(row: Row) -> None:
        prompt = row["prompt"]
        sampled = rollouts.sample(adapted, [prompt], config.grpo, Streams(config.run.seed))
        columns = {key: [value] for key, value in row.items() if key != "prompt"}
        done = sampled.completions, sampled.completion_ids
        marks = rewards.score(functions, client.reward_weights, [prompt], *done, columns, {"global_step": 0})
        rewards.marked(marks.reshape(1, -1))

    failed = ""
    for row in rows:
        try:
            return contained(partial(work, row))
        except UnusableRound as problem:
            failed = str(problem)
    raise RewardError(f"client {client.name!r}: its reward worked on none of its first {len(rows)} rows: {failed}")
