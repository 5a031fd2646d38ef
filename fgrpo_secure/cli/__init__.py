"""The command line, `fgrpo`. Exit codes: 0 done, 1 a check failed (a budget, an engine), 2 unusable input."""

import sys

import typer

from fgrpo_secure.cli import contributed, ledger
from fgrpo_secure.cli.demo import demo
from fgrpo_secure.cli.export import export
from fgrpo_secure.cli.identity import identity
from fgrpo_secure.cli.plan import plan
from fgrpo_secure.cli.report import report
from fgrpo_secure.cli.roster import roster
from fgrpo_secure.cli.run import run
from fgrpo_secure.cli.verify import verify
from fgrpo_secure.cli.watch import watch

app = typer.Typer(
    name="fgrpo",
    help="Federated GRPO with secure aggregation and differential privacy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(identity, name="identity")
app.add_typer(roster, name="roster")
app.command()(run)
app.command()(plan)
app.command()(demo)
app.command()(verify)
app.command()(report)
app.command()(watch)
app.command()(export)
app.add_typer(ledger.app, name="ledger")


def main() -> None:
    """Entry point of the `fgrpo` script."""
    contributed.add(app)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit("interrupted; continue with `fgrpo run --resume DIR`")
