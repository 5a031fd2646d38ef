"""Tasks, data and rewards: what clients train on and what everybody is measured on.

Also the tiny base model that ships with the package (`base_model/`, made by `make_base_model.py`).
"""

from fgrpo_secure.learning.tasks.evaluation import evaluation_reward, evaluation_set, evaluation_sets
from fgrpo_secure.learning.tasks.files import Row, UnusableData
from fgrpo_secure.learning.tasks.procedural import ALL_TASKS, TASKS, Problem, Task, problems, split_of
from fgrpo_secure.learning.tasks.rewards import BUILT_IN, is_correct, reward_of
from fgrpo_secure.learning.tasks.sources import Source, open_source
from fgrpo_secure.learning.tasks.units import UnitTable, open_units

__all__ = [
    "ALL_TASKS",
    "BUILT_IN",
    "TASKS",
    "Problem",
    "Row",
    "Source",
    "Task",
    "UnitTable",
    "UnusableData",
    "evaluation_reward",
    "evaluation_set",
    "evaluation_sets",
    "is_correct",
    "open_source",
    "open_units",
    "problems",
    "reward_of",
    "split_of",
]
