"""What a report says, where it takes it from, and how it refuses."""

import dataclasses
import html
import json
import re
import shutil
from contextlib import ExitStack
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.evidence import attacks, audits, basis, manifest, statement, summary, verify, vouching
from fgrpo_secure.evidence import statement_form as form
from fgrpo_secure.evidence.attacks import Trial, Verdict
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.privacy.encode import Lattice
from fgrpo_secure.report import comparison, curves, facts, mapping, page, plots, tables
from fgrpo_secure.report.curves import Curve
from fgrpo_secure.storage import digests, rosters, signed_file
from fgrpo_secure.storage.run_directory import RunDirectory, metrics_form
from protocols.identity import Identity

run = CliRunner()
PLOTS = {"learning", "budget", "cohort", "traffic", "times", "noise", "weights"}


def drawn(directory, **keys):
    """The facts of a run that verifies, as `fgrpo report` has them."""
    with ExitStack() as held:
        evidence = verify.Evidence(directory, verify.Trust(**keys), held)
        for _ in verify.steps(evidence):
            pass
        return facts.of_verified(evidence)


def rendered(directory):
    return page.render(drawn(directory))


@pytest.fixture(scope="session")
def private(runs):
    return drawn(runs["private"])


def test_every_plot_is_there_with_its_words_and_its_figures(runs):
    text = runs["private"].report.read_text()
    for plot in PLOTS:
        assert f'<figure id="{plot}">' in text
    assert text.count('<div role="img"') == len(PLOTS)
    assert text.count("<figcaption") == len(PLOTS)
    assert text.count("<details><summary>Figures of") == len(PLOTS)


def test_a_clip_norm_that_adapts_is_drawn_with_the_noise_of_what_moves_it(runs):
    text = runs["adaptive"].report.read_text()
    read = drawn(runs["adaptive"])
    figure = text[text.index('<figure id="clip">') : text.index('<figure id="weights">')]
    wide = read.score_deviations(0.5)
    for line, deviation in zip(read.rounds, wide, strict=True):
        assert f"{line['clip_norm']:.4g}" in figure
        assert f"{line['fraction_within']:.3f} ± {2 * deviation:.3f}" in figure
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
        assert digests.of_file(directory.root / name)[:16] in text
    assert "complies" not in text.lower()


def test_no_figure_of_the_simulation_is_in_the_report(runs):
    text = runs["private"].report.read_text()
    assert runs["private"].simulation.exists()
    assert not any(word in text for word in ("training_total", "privacy_slowest", "slowest", "processor time of all"))


def test_drawing_again_gives_the_same_page(private):
    assert page.render(private) == page.render(private)


def test_no_text_of_a_run_becomes_markup(private):
    evil = "<script>alert(1)</script>"
    asserted = msgspec.structs.replace(private.stated.asserted, operator=(evil,))
    stated = msgspec.structs.replace(
        private.stated, run=msgspec.structs.replace(private.stated.run, name=evil, base_model=evil), asserted=asserted
    )
    text = page.render(dataclasses.replace(private, stated=stated))
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") >= 4


def test_the_expected_noise_is_that_of_the_lattice():
    """z * B / s in each coordinate, over the denominator: derived here from the encoder's own numbers."""
    dimension, z, divisor = 512, 3.0, 5.0
    lattice = Lattice.build(dimension, 2.0)
    draws = np.random.default_rng(3).normal(0, z * lattice.integer_bound / lattice.scale, (200, dimension))
    measured = np.linalg.norm(draws, axis=1).mean() / divisor
    assert facts.noise_norm(z, 2.0, dimension, 2, divisor) == pytest.approx(measured, rel=0.02)


def test_the_noise_of_a_round_is_that_of_the_factors_which_it_trains(private):
    """With alternating factors even and odd rounds have different lengths."""
    tensors = {"m.lora_A.default.weight": (2, 8), "m.lora_B.default.weight": (50, 2)}
    settings = private.basis.config.adapter.model_copy(update={"factors": "alternate"})
    planner = dataclasses.replace(private.basis.planner, shape=AdapterShape(tensors, settings))
    changed = dataclasses.replace(private, basis=dataclasses.replace(private.basis, planner=planner))
    even, odd, again = changed.noise_norms()
    ratios = [norm / clip["clip_norm"] for norm, clip in zip((even, odd, again), changed.rounds, strict=True)]
    assert ratios[0] / ratios[1] == pytest.approx((100 / 16) ** 0.5)
    assert ratios[0] == pytest.approx(ratios[2])


def test_a_run_that_its_budget_ended_before_the_first_round_has_a_report_too(private):
    ended = msgspec.structs.replace(private.stated.run, rounds=0, stopped="budget spent")
    stated = msgspec.structs.replace(private.stated, run=ended)
    text = page.render(dataclasses.replace(private, stated=stated, rounds=()))
    assert "stopped: budget spent" in text
    assert '<figure id="learning">' in text


def test_a_report_names_model_operator_dates_data_owners_and_who_vouches_for_each_figure(private):
    text = html.unescape(page.render(private))
    stated = private.stated
    for shown in (
        stated.run.base_model_digest,
        stated.run.adapter_digest,
        stated.origins.authority,
        stated.origins.server,
        stated.asserted.operator[0],
        stated.asserted.started[:19].replace("T", " "),
        stated.asserted.ended[:19].replace("T", " "),
        "6 on roster version 1; 6 of them in the sums of all 3 rounds",
    ):
        assert shown in text
    for member in private.basis.planner.rosters[-1].members:
        assert member.public.hex()[:16] in text
    for figure in vouching.figures(signed=True, measured=False):
        assert f"<span>{figure.words}</span>" in text
    assert text.count(">proven by clients' signatures<") == 6
    assert "named in the files only, so compare it before you sign" in text


def test_a_charge_is_a_number_with_its_fraction_and_rounds_count_from_one(private):
    (first, *_), history = private.stated.rounds, private.basis.history
    rows = tables.ledger(private).rows
    assert [row[0] for row in rows] == ["1", "2", "3"]
    value = Fraction(first.charge)
    assert rows[0][4:6] == (f"{float(value):.4g} = {first.charge}", f"{float(value / history.budget):.2%}")
    assert float(rows[-1][6]) == pytest.approx(private.stated.claims.server.epsilon_spent, rel=1e-3)


def test_stages_of_the_servers_time_add_up_to_the_whole(private):
    (times,) = [plot for plot in plots.all_plots(private) if plot.identifier == "times"]
    *rounds, sums, rates, whole = [float(seconds) for _, seconds in times.rows]
    assert sum(rounds) == pytest.approx(sums, rel=0.02)
    assert sums + rates == pytest.approx(whole, rel=0.02)
    assert whole == pytest.approx(private.summary["seconds.total"], rel=0.01)


def test_a_curve_that_hides_another_is_said_so():
    _, (axes,) = curves.panels(1, 2)
    rounds = [1, 2, 3, 4]
    same = [Curve("one", rounds, [1, 2, 3, 4]), Curve("other", rounds, [1, 2, 3, 4.01])]
    apart = [Curve("one", rounds, [1, 2, 3, 4]), Curve("other", rounds, [1, 5, 6, 7])]
    partly = [Curve("one", rounds, [1, 2, 3, 4]), Curve("other", rounds, [1, 2, 6, 7])]
    level = [Curve("one", rounds, [1, 2, 3, 4]), Curve("level", [], [4])]
    curves.draw(axes, [*same, *apart])
    assert curves.coincidences(axes, same) == "“one” and “other” lie on each other throughout."
    assert curves.coincidences(axes, partly) == "“one” and “other” lie on each other in 2 of 4 rounds."
    assert curves.coincidences(axes, apart) == ""
    assert curves.coincidences(axes, level) == ""


def test_several_runs_are_compared_on_one_page(runs, tmp_path):
    out = tmp_path / "both.html"
    done = run.invoke(app, ["report", *(str(each.root) for each in runs.values()), "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    text = out.read_text()
    assert text.count("<figure ") == 2
    for name in runs:
        assert f">{name}</span></td>" in text
    assert "checked by its owner" not in text


def test_units_and_evaluation_sets_of_different_kinds_never_share_an_axis(private):
    claims = private.stated.claims
    other = msgspec.structs.replace(private.stated, unit="subject")
    delta = msgspec.structs.replace(claims, server=msgspec.structs.replace(claims.server, delta=1e-6))
    evaluation = private.basis.config.evaluation.model_copy(update={"prompts": 3})
    config = private.basis.config.model_copy(update={"evaluation": evaluation})
    planner = dataclasses.replace(private.basis.planner, config=config)
    runs = [
        private,
        dataclasses.replace(private, stated=other),
        dataclasses.replace(private, stated=msgspec.structs.replace(private.stated, claims=delta)),
        dataclasses.replace(private, basis=dataclasses.replace(private.basis, planner=planner)),
    ]
    found = {plot.identifier: plot for plot in comparison.all_plots(runs)}
    assert set(found) == {"curves-A", "curves-B"}, "each has a unit, delta or evaluation set of its own"
    assert {row[0] for row in found["curves-A"].rows} == {"private"}
    doubled = {plot.identifier: plot for plot in comparison.all_plots([*runs, *runs])}
    assert set(doubled) == {*found, "frontier-A-0", "frontier-A-1", "frontier-A-2", "frontier-B-0"}
    assert all(len(plot.rows) == 2 for name, plot in doubled.items() if "frontier" in name)
    text = page.render_comparison(runs)
    assert "Epsilons for different units do not compare" in text
    assert "2 different sets of public problems" in text


def test_a_report_made_again_leaves_the_run_as_it_was(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.invoke(app, ["report", str(runs["private"].root)]).exit_code == 0
    assert (tmp_path / "report-private.html").exists()
    inside = run.invoke(app, ["report", str(runs["private"].root), "--out", str(runs["private"].report)])
    assert (inside.exit_code, "whose manifest it would break" in inside.stderr) == (2, True)
    assert len(list(verify.verify(runs["private"], verify.Trust()))) == 11


def test_every_kind_of_run_verifies_after_the_process_that_made_it_let_go_of_its_files(runs):
    for directory in runs.values():
        assert len(list(verify.verify(directory, verify.Trust()))) == 11


def test_keys_that_are_known_are_compared_and_said_so(runs, tmp_path):
    stated = signed_file.read(runs["private"].statement)["origins"]
    out = tmp_path / "page.html"
    keys = ["--authority", stated["authority"], "--server", stated["server"], "--out", str(out)]
    assert run.invoke(app, ["report", str(runs["private"].root), *keys]).exit_code == 0
    assert "named in the files only" not in out.read_text()
    wrong = run.invoke(app, ["report", str(runs["private"].root), "--server", "00" * 32, "--out", str(out)])
    assert (wrong.exit_code, "does not verify, so nothing is drawn from it: files" in wrong.stderr) == (1, True)
    twice = run.invoke(app, ["report", str(runs["private"].root), *keys[:4], *keys[:2]])
    assert (twice.exit_code, "--authority is given 2 times for 1 directories" in twice.stderr) == (2, True)


def _signed_again(directory, name, **changes):
    """What a server that cheats does to a document of names and values: it signs the manifest over its forgery."""
    path = directory.root / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=2) + "\n")
    manifest.write(directory, Identity.from_seed(directory.server_key.read_bytes()))


@pytest.mark.parametrize(
    ("damage", "code", "sentence"),
    [
        (lambda d: d.manifest.unlink(), 2, "has no finished run that could be verified: manifest.json is missing"),
        (lambda d: d.summary.unlink(), 1, "files: summary.json is missing"),
        (
            lambda d: d.statement.write_text(json.dumps({"format": "other/9"})),
            1,
            "files: privacy_statement.json is not",
        ),
        (
            lambda d: _signed_again(d, "summary.json", **{"pass_rate.final": 0.99}),
            1,
            "other results than the statement",
        ),
        (lambda d: _signed_again(d, "summary.json", rounds=9), 1, "summary.json says rounds = 9"),
        (lambda d: _signed_again(d, "summary.json", **{"seconds.total": "much"}), 1, "allowed are numbers from 0"),
    ],
)
def test_nothing_is_drawn_from_a_run_that_does_not_verify(runs, tmp_path, damage, code, sentence):
    for folder in (runs["private"].root, runs["private"].private):
        shutil.copytree(folder, tmp_path / folder.name)
    directory = RunDirectory(tmp_path / "private")
    damage(directory)
    out = tmp_path / "page.html"
    refused = run.invoke(app, ["report", str(directory.root), "--out", str(out)])
    assert refused.exit_code == code, refused.stderr
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not out.exists()


@pytest.mark.parametrize("change", [{"round": "one"}, {"reward": [1]}, {"more": 1}, {"seconds_server": None}])
def test_a_round_of_a_run_that_nobody_signed_must_at_least_be_one(runs, tmp_path, change):
    for folder in (runs["open"].root, runs["open"].private):
        shutil.copytree(folder, tmp_path / folder.name)
    directory = RunDirectory(tmp_path / "open")
    lines = [json.loads(line) | change for line in directory.metrics.read_text().splitlines()]
    directory.metrics.write_text("".join(map(metrics_form, lines)))
    manifest.write(directory, Identity.from_seed(directory.server_key.read_bytes()))
    with pytest.raises(verify.Mismatch, match=r"metrics.jsonl, line 1, (is no round|has other figures)"):
        drawn(directory)


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
    assert "No audit was run on this directory" in rendered(directory)
    audits.keep(directory, audit())
    text = rendered(directory)
    for shown in ("at least: some_bound", "about: some_estimate", "trials are &lt;independent&gt;", "whoever looks"):
        assert shown in text
    assert "Nothing that the mechanism audit measured contradicts the claim." in text
    assert "regular testing of measures" in text
    list(verify.verify(directory, verify.Trust()))
    audits.keep(directory, audit(lower_bounds={"some_bound": 4.1}))
    assert "The mechanism audit contradicts the claim." in rendered(directory)


def test_a_statement_holds_the_audits_that_were_made_before_it(runs):
    finished = drawn(runs["private"])
    assert finished.stated.asserted.audits == ()
    known = basis.read(runs["private"], rosters.pins(runs["private"]).authority)
    built = statement.statement(known, summary.results(finished.summary), (audit(),), None)
    assert form.builtins(built)["asserted"]["audits"] == (msgspec.to_builtins(audit()),)


def test_attacks_that_were_kept_are_shown_and_one_that_succeeded_is_not_hidden(runs, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    shutil.copytree(runs["private"].root, directory.root)
    assert "No attack was kept in this directory" in rendered(directory)
    trial = Trial("key-theft", "network", Verdict.FAILED, Verdict.SUCCEEDED, "refused <it>")
    attacks.keep(directory, "9.8.7", [trial])
    text = rendered(directory)
    assert "All 1 attacks failed on version 9.8.7" in text
    assert "refused &lt;it&gt;" in text
    list(verify.verify(directory, verify.Trust()))
    attacks.keep(directory, "9.8.7", [trial, dataclasses.replace(trial, ours=Verdict.SUCCEEDED)])
    assert "Only 1 of 2 attacks failed" in rendered(directory)
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
