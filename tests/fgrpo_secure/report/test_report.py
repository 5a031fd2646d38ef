"""What a report says, where it takes it from, and how it refuses."""

import dataclasses
import html
import json
import math
import re
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from fgrpo_secure import adapters, config_file, models, run_plan
from fgrpo_secure.cli import app
from fgrpo_secure.evidence import attacks, audits, manifest, signed_file, statement
from fgrpo_secure.evidence.attacks import Trial, Verdict
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.evidence.verify import Trust, verify
from fgrpo_secure.privacy.encode import Lattice
from fgrpo_secure.report import facts, mapping, page
from fgrpo_secure.report.facts import RunFacts
from fgrpo_secure.run_directory import RunDirectory

run = CliRunner()
PLOTS = {"learning", "budget", "cohort", "bytes", "times", "noise", "weights"}


def test_every_plot_is_there_with_its_words_and_its_figures(runs):
    text = runs["private"].report.read_text()
    for plot in PLOTS:
        assert f'<figure id="{plot}">' in text
    assert text.count("<svg ") == len(PLOTS)
    assert text.count("<figcaption") == len(PLOTS)
    assert text.count("<details>") == len(PLOTS)


def test_a_clip_norm_that_adapts_is_drawn_with_the_noise_of_what_moves_it(runs):
    text = runs["adaptive"].report.read_text()
    read = facts.read(runs["adaptive"])
    figure = text[text.index('<figure id="clip">') : text.index('<figure id="weights">')]
    wide = read.score_deviations(0.5)
    for line, deviation in zip(read.rounds, wide, strict=True):
        assert f"{line['clip_norm']:.4g}" in figure
        assert f"{line['share_within']:.3f} ± {2 * deviation:.3f}" in figure
    assert 'id="clip"' not in runs["private"].report.read_text()


def test_a_run_without_privacy_says_so_first_and_draws_no_budget(runs):
    text = runs["open"].report.read_text()
    assert page.NOTE_WITHOUT_PRIVACY in text
    assert '<figure id="budget">' not in text
    assert "changes the odds" not in text


def test_the_page_asks_for_nothing_and_runs_nothing(runs):
    for directory in runs.values():
        text = directory.report.read_text()
        assert "<script" not in text
        assert "default-src 'none'" in text
        assert not re.search(r'(src|href)="(https?:)?//', text)
        assert "@import" not in text
        assert "url(http" not in text


def test_the_page_is_small(runs):
    assert len(runs["private"].report.read_bytes()) < 1_500_000


def test_the_summary_says_what_the_statement_says(runs):
    stated = signed_file.read(runs["private"].statement)
    text = runs["private"].report.read_text()
    claim = stated["claims"]["server"]
    assert f"epsilon {claim['epsilon_spent']:.2f} of the {claim['epsilon']:.2f} allowed" in text
    assert stated["ledger"]["root"] in text
    for line in stated["not_protected"]:
        assert line in html.unescape(text)


def test_every_named_file_is_linked_with_its_digest(runs):
    directory = runs["private"]
    text = directory.report.read_text()
    present = [name for name in mapping.FILES if (directory.root / name).is_file()]
    assert set(present) == mapping.FILES - {"audit.json"}, "nobody has audited this run"
    for name in present:
        assert f'href="{name}"' in text
        assert manifest.digest(directory.root / name)[:16] in text
    assert "complies" not in text.lower()


def test_figures_of_the_simulation_are_marked(runs):
    text = runs["private"].report.read_text()
    assert text.index("outside the claim") > 0
    simulated = text[text.index('id="simulation"') :]
    assert "seconds.server_per_round" in simulated


def test_drawing_again_gives_the_same_page(runs):
    read = facts.read(runs["private"])
    assert page.render(runs["private"], read) == page.render(runs["private"], read)


def test_a_name_cannot_become_markup(runs):
    read = facts.read(runs["private"])
    summary = {**read.summary, "name": "<script>alert(1)</script>"}
    changed = RunFacts(summary, read.rounds, read.statement, read.config)
    assert "<script>" not in page.render(runs["private"], changed)


def test_the_expected_noise_is_that_of_the_lattice():
    """z * B / s in each coordinate, over the public denominator: derived here from the encoder's own numbers."""
    config = config_file.parse(
        {"client": [{"name": "a", "task": "add", "count": 6}], "privacy": {"noise_multiplier": 3.0}}, "here"
    )
    dimension, survivors, z = 512, 6, 3.0
    line = {"session": 0, "survivors": survivors, "mean_weight": 9.0, "round": 1, "clip_norm": 2.0}
    stated = {
        "claims": {},
        "mechanism": {"clip_norm": 2.0, "mode": "distributed", "sampling": None},
        "rounds": [{"outcome": "settled", "round": 0, "noise_multiplier": z}],
    }
    read = RunFacts({"adapter.dimension": dimension}, (line,), stated, config)
    lattice = Lattice.build(dimension, 2.0)
    draws = np.random.default_rng(3).normal(0, z * lattice.integer_bound / lattice.scale, (200, dimension))
    measured = np.linalg.norm(draws, axis=1).mean() / (survivors * math.sqrt(0.5))
    (expected,) = read.noise_norms()
    assert expected == pytest.approx(measured, rel=0.02)


def test_a_run_that_its_budget_ended_before_the_first_round_has_a_report_too(runs):
    read = facts.read(runs["private"])
    summary = {**read.summary, "rounds": 0, "stopped": "budget spent"}
    text = page.render(runs["private"], RunFacts(summary, (), read.statement, read.config))
    assert "stopped: budget spent" in text
    assert '<figure id="learning">' in text


def test_several_runs_are_compared_on_one_page(runs, tmp_path):
    out = tmp_path / "both.html"
    done = run.invoke(app, ["report", *(str(each.root) for each in runs.values()), "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    text = out.read_text()
    assert text.count("<svg ") == 2
    for name in runs:
        assert f"<td>{name}</td>" in text


def test_a_report_made_again_leaves_the_run_as_it_was(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.invoke(app, ["report", str(runs["private"].root)]).exit_code == 0
    assert (tmp_path / "report-private.html").exists()
    inside = run.invoke(app, ["report", str(runs["private"].root), "--out", str(runs["private"].report)])
    assert (inside.exit_code, "whose manifest it would break" in inside.stderr) == (2, True)
    assert len(list(verify(runs["private"], Trust()))) == 8


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda d: d.summary.unlink(), "has no finished run"),
        (lambda d: d.statement.unlink(), "privacy_statement.json is missing"),
        (lambda d: d.summary.write_text("{}"), "is it of another version?"),
        (lambda d: d.summary.write_text('{"rounds": '), "cannot be reported"),
        (lambda d: d.config.unlink(), "holds no run"),
        (lambda d: d.statement.write_text(json.dumps({"format": "other/9"})), "is not a signed JSON object"),
    ],
)
def test_a_directory_that_is_cut_short_or_of_another_version_is_refused_in_one_sentence(
    runs, tmp_path, damage, sentence
):
    shutil.copytree(runs["private"].root, tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    damage(directory)
    refused = run.invoke(app, ["report", str(directory.root)])
    assert refused.exit_code == 2
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr


def audit(**changes):
    found = Audit(
        audit="mechanism", unit="client", view="whoever looks", claimed_epsilon=4.0, delta=1e-5, alpha=0.01, trials=100,
        lower_bounds={"some_bound": 3.5}, estimates={"some_estimate": 4.5}, sensitivity=9.5, sensitivity_bound=10,
        assumptions={"some_bound": "trials are <independent>", "some_estimate": "no bound"}, shared=("adjacency",),
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def test_audits_that_were_kept_are_shown_with_what_they_rest_on_and_break_no_signature(runs, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    shutil.copytree(runs["private"].root, directory.root)
    assert "No audit was run on this directory" in page.render(directory, facts.read(directory))
    audits.keep(directory, audit())
    text = page.render(directory, facts.read(directory))
    for shown in ("at least: some_bound", "about: some_estimate", "trials are &lt;independent&gt;", "whoever looks"):
        assert shown in text
    assert "Nothing that the mechanism audit measured contradicts the claim." in text
    assert "regular testing of measures" in text
    verify(directory, Trust())
    audits.keep(directory, audit(lower_bounds={"some_bound": 4.1}))
    assert "The mechanism audit contradicts the claim." in page.render(directory, facts.read(directory))


def test_a_statement_holds_the_audits_that_were_made_before_it(runs):
    finished = facts.read(runs["private"])
    assert finished.statement["audits"] == []
    config = finished.config
    planned = run_plan.plan(config, adapters.attach(models.load(config.model), config.adapter, config.run.seed))
    origins = statement.Origins(**finished.statement["origins"])
    kept = {"mechanism": audit()}
    built = statement.build(config, planned.facts(), finished.summary, origins, None, bytes(32), planned.claim, kept)
    assert built["audits"] == [audit().facts()]


def test_attacks_that_were_kept_are_shown_and_one_that_succeeded_is_not_hidden(runs, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    shutil.copytree(runs["private"].root, directory.root)
    assert "No attack was kept in this directory" in page.render(directory, facts.read(directory))
    trial = Trial("key-theft", "network", Verdict.FAILED, Verdict.SUCCEEDED, "refused <it>")
    attacks.keep(directory, "9.8.7", [trial])
    text = page.render(directory, facts.read(directory))
    assert "All 1 attacks failed on version 9.8.7" in text
    assert "refused &lt;it&gt;" in text
    verify(directory, Trust())
    attacks.keep(directory, "9.8.7", [trial, dataclasses.replace(trial, ours=Verdict.SUCCEEDED)])
    assert "Only 1 of 2 attacks failed" in page.render(directory, facts.read(directory))
    directory.attacks.write_text('{"version": 3}')
    shown = run.invoke(app, ["report", str(directory.root), "--out", str(tmp_path / "page.html")])
    assert (shown.exit_code, "attacks.json cannot be read" in shown.stderr) == (2, True)


def test_a_damaged_audit_is_refused_by_name(runs, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    shutil.copytree(runs["private"].root, directory.root)
    directory.audits.write_text('{"mechanism": 3}')
    shown = run.invoke(app, ["report", str(directory.root), "--out", str(tmp_path / "page.html")])
    assert shown.exit_code == 2
    assert "audit.json cannot be read" in shown.stderr
