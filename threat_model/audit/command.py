"""`fgrpo audit`: measure the noise that a configuration really makes, and refuse a claim that it contradicts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgrpo_secure import entropy
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.errors import UnusableInput

if TYPE_CHECKING:
    from fgrpo_secure.evidence.audits import Audit
    from threat_model.audit.setting import Setting

app = typer.Typer(
    name="audit",
    help="Measure lower bounds on epsilon with the real code. Exit 1 if one exceeds the claim.",
    no_args_is_help=True,
)

Source = Annotated[str, typer.Argument(metavar="CONFIG", help="Preset name, TOML file, or config.toml of a run.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
]
Out = Annotated[
    Path | None, typer.Option(help="Directory of the run that is audited: the result is kept there as audit.json.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("mechanism")
def audit_mechanism(
    config: Source,
    overrides: Overrides = None,
    trials: Annotated[int | None, typer.Option(min=100, help="Independent trials; default: 5 seconds of them.")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Run clip, encode, noise and sum many times, with one unit and without it."""
    from threat_model.audit import mechanism  # configuration, statistics and models: others need not wait

    with one_sentence():
        audited = _setting(config, overrides)
        _finish(mechanism.audit(audited, entropy.OsEntropy(), trials), audited, out, as_json)


@app.command("canaries")
def audit_canaries(
    config: Source,
    overrides: Overrides = None,
    count: Annotated[
        int | None, typer.Option("--canaries", help="Planted units, at least 20; default: 500 or less.")
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Run all releases once with hundreds of planted units, and guess which of them were in."""
    from threat_model.audit import canaries, setting  # see above

    with one_sentence():
        audited = _setting(config, overrides)
        try:
            found = canaries.audit(audited, entropy.OsEntropy(), count)
        except (setting.NothingToAudit, ValueError) as problem:
            raise UnusableInput(f"{config} cannot be audited: {problem}") from None
        _finish(found, audited, out, as_json)


@app.command("data")
def audit_data(
    config: Source,
    overrides: Overrides = None,
    most: Annotated[
        int, typer.Option("--units", min=1, help="Units of each client that are taken away, one after the other.")
    ] = 16,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Take each unit of your own data away and see what else changes. Figures are yours; --out keeps the verdict."""
    from fgrpo_secure.config import files as config_file
    from fgrpo_secure.learning import adapters, models
    from threat_model.audit import data, setting  # see above

    with one_sentence():
        loaded = config_file.load(config, overrides or [])
        adapted = adapters.attach(models.load(loaded.model), loaded.adapter, loaded.run.seed)
        try:
            audited = setting.of_config(loaded)
        except setting.NothingToAudit as problem:
            raise UnusableInput(f"{config} cannot be audited: {problem}") from None
        found = data.audit(loaded, adapted, audited, most)
        if out is not None:
            _keep(data.publishable(found, loaded.clients_total), audited, out)
        _say(found, as_json)


def _setting(config: str, overrides: list[str] | None) -> "Setting":
    from fgrpo_secure.config import files as config_file
    from threat_model.audit import setting  # see above

    try:
        return setting.of_config(config_file.load(config, overrides or []))
    except setting.NothingToAudit as problem:
        raise UnusableInput(f"{config} cannot be audited: {problem}") from None


def _finish(found: "Audit", audited: "Setting", out: Path | None, as_json: bool) -> None:
    if out is not None:
        _keep(found, audited, out)
    _say(found, as_json)


def _keep(found: "Audit", audited: "Setting", out: Path) -> None:
    from fgrpo_secure.evidence import audits
    from fgrpo_secure.storage.run_directory import RunDirectory

    directory = RunDirectory(out)
    directory.require()
    if _setting(str(directory.config), None) != audited:
        raise UnusableInput(f"{out} is a run with another claim than what was audited; audit {directory.config}")
    audits.keep(directory, found)


def _say(found: "Audit", as_json: bool) -> None:
    typer.echo(json.dumps(found.facts(), indent=2, allow_nan=False) if as_json else "\n".join(lines(found)))
    if not found.passed:
        raise typer.Exit(1)


def lines(found: "Audit") -> list[str]:
    """An audit for reading."""
    bounds = [
        f"  at least {value:7.3f}  {name}: {found.assumptions[name]}" for name, value in found.lower_bounds.items()
    ]
    estimates = [
        f"  about    {value:7.3f}  {name}: {found.assumptions[name]}" for name, value in found.estimates.items()
    ]
    verdict = "nothing measured contradicts the claim" if found.passed else "FAILED: the claim is contradicted"
    return [
        f"{found.audit} audit of epsilon {found.claimed_epsilon:.4g} at delta {found.delta:g} for each {found.unit}",
        f"view: {found.view}",
        f"{found.trials:,} units taken away, one after the other"
        if found.audit == "data"
        else f"{found.trials:,} trials; all bounds together are wrong with chance {found.alpha:g} if assumptions hold",
        *bounds,
        *estimates,
        *(["  FAILED: taking a unit away changed something about another"] if found.interference else []),
        f"  one {found.unit} moved the sum by {found.sensitivity:.2f} of {found.sensitivity_bound} steps",
        *(f"assumes: {each}" for each in found.shared),
        verdict,
    ]
