"""The command line, `fgrpo`.

Exit codes: 0 done, 1 a check failed (a budget, an engine), 2 unusable input, 130 and 143 a run that Ctrl-C or SIGTERM
ended.
"""

import sys
from typing import Annotated

import typer

from fgrpo_secure import __version__
from fgrpo_secure.cli import contributed, ledger
from fgrpo_secure.cli.attempt import attempt
from fgrpo_secure.cli.authority import authority
from fgrpo_secure.cli.benchmark import benchmark
from fgrpo_secure.cli.chat import chat
from fgrpo_secure.cli.client import client
from fgrpo_secure.cli.config import config
from fgrpo_secure.cli.demo import demo
from fgrpo_secure.cli.eval import evaluate
from fgrpo_secure.cli.export import export
from fgrpo_secure.cli.identity import identity
from fgrpo_secure.cli.init import init
from fgrpo_secure.cli.merge import merge
from fgrpo_secure.cli.model import model
from fgrpo_secure.cli.plan import plan
from fgrpo_secure.cli.report import report
from fgrpo_secure.cli.roster import roster
from fgrpo_secure.cli.run import run
from fgrpo_secure.cli.server import server
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
app.add_typer(authority, name="authority")
app.add_typer(server, name="server")
app.add_typer(client, name="client")
app.command()(init)
app.command()(run)
app.command()(plan)
app.command(name="try")(attempt)
app.command()(config)
app.command()(demo)
app.command()(benchmark)
app.command()(verify)
app.command()(report)
app.command()(watch)
app.command()(export)
app.command()(merge)
app.command(name="eval")(evaluate)
app.command()(chat)
app.command()(model)
app.add_typer(ledger.app, name="ledger")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fgrpo {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[  # its callback has answered and ended before
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Federated GRPO with secure aggregation and differential privacy."""


def main() -> None:
    """Entry point of the `fgrpo` script."""
    contributed.add(app)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit("interrupted; continue with `fgrpo run --resume DIR`")
