"""The policy file that a trial writes for its owners allows what that trial plans, whatever its rounds are."""

import re

import pytest

from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.plan import round_settings


@pytest.mark.parametrize("factors", ["ffa", "alternate", "full"])
@pytest.mark.parametrize("unit", ["none", "client", "subject", "prompt_group"])
def test_the_file_that_a_trial_writes_allows_every_round_of_that_trial(trial, factors, unit):
    """One round trains B and the next one A, which is longer: a file that knew one length would end the run there."""
    rows = '\nrows = 8\nsubject = "who"\nrows_per_subject = 2'
    text = re.sub(r'(task = "\w+")', rf"\1{rows}", trial.text).replace("prompts_per_step = 2\n", "")
    prompts = 1 if unit == "prompt_group" else 2
    federation = trial.federation(
        f"adapter.factors={factors}", f"privacy.unit={unit}", f"grpo.prompts_per_step={prompts}", text=text
    )
    lengths = [federation.adapted.dimension(number) + round_settings.SCORES for number in range(2)]
    written = client_policy.load(federation.directory.owners, "mul").privacy
    assert written.max_dimension == max(lengths) == federation.privacy.longest
    assert (len(set(lengths)) == 2) is (factors == "alternate")
    for number in range(2):
        session = trial.conduct(federation, number)
        assert session.refusals == {}
        assert len(session.result.recovered.survivors) == 8
