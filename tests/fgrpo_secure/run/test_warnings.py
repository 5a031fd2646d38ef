"""A run says loudly, on the screen, that nothing can be learnt or that nothing was."""

from fgrpo_secure.client import own_view
from fgrpo_secure.plan import run_plan


def test_what_a_plan_says_of_a_budget_that_leaves_nothing_to_learn_a_run_says_too(trial, monkeypatch):
    seen = []
    original = run_plan.plan
    monkeypatch.setattr(run_plan, "plan", lambda *given: seen.append(original(*given)) or seen[-1])
    trial.run("privacy.epsilon=0.5", "federation.rounds=1")
    assert seen[0].verdict.startswith("cannot learn: the noise leaves")
    assert trial.lines.count(f"WARNING: {seen[0].verdict}") == 1


def test_a_round_whose_mean_update_is_zero_is_said_and_owners_know_why(trial):
    text = trial.text
    for task in ("add", "sub", "mul", "sort", "rev", "cnt", "mod", "minmax"):
        text = text.replace(f'task = "{task}"\n', f'task = "{task}"\nreward = "length(1000)"\n')
    directory = trial.run("privacy.unit=none", "federation.rounds=1", text=text)
    assert "WARNING: round 1: nothing was learnt, the mean update is zero" in trial.lines
    kept = list(own_view.read(directory.owners / "host-0" / "add.log"))
    assert [each.warning() for each in kept] == [
        "no prompt had two different rewards: nothing was learnt from this data"
    ]
    handed_over = [path for path in directory.root.rglob("*") if path.is_file()]
    assert not [path for path in handed_over if b"differing" in path.read_bytes()]


def test_a_run_that_can_learn_warns_of_nothing(trial):
    trial.run("federation.rounds=1", "privacy.unit=none")
    assert not [line for line in trial.lines if "WARNING" in line]
