"""The command line, `fgrpo`.

Exit codes: 0 done, 1 a check failed (a budget, an engine), 2 unusable input, 130 and 143 a run that Ctrl-C or SIGTERM
ended.
"""

import sys
from typing import Annotated

import typer

from fgrpo_secure import __version__
from fgrpo_secure.cli import contributed
from fgrpo_secure.cli.deferred import Deferred, loading

COMMANDS = (
    Deferred("init", "init:init", "Write a small federation to begin from."),
    Deferred("run", "run:run", "Train one adapter over all clients of a configuration."),
    Deferred("plan", "plan:plan", "Say what a run would cost, guarantee and learn."),
    Deferred("try", "attempt:attempt", "Take one step of a client's training on this machine, and show all of it."),
    Deferred("config", "config:config", "Print each key of a configuration, and what it means."),
    Deferred("demo", "demo:demo", "Run the quickstart and its twin, then say what was learned, protected and paid."),
    Deferred(
        "benchmark", "benchmark:benchmark", "Run a configuration at several budgets and weights, over several seeds."
    ),
    Deferred("verify", "verify:verify", "Check files, signatures, ledger, witnesses and claims of a finished run."),
    Deferred("report", "report:report", "Verify, then write a self-contained page."),
    Deferred("watch", "watch:watch", "Show rounds, budget and cohort of a running federation."),
    Deferred("export", "export:export", "Write every number of metrics.jsonl where other tools read it."),
    Deferred("merge", "merge:merge", "Write base model and adapter as one model."),
    Deferred("eval", "eval:evaluate", "Measure base model and adapter on the same problems."),
    Deferred("chat", "chat:chat", "Read a line, print the model's reply, until the input ends."),
    Deferred("model", "model:model", "Make a model folder that `model.path` can name."),
    Deferred("identity", "identity:identity", "Make secret identities."),
    Deferred("roster", "roster:roster", "Make, change, sign and show the list of who may take part."),
    Deferred("authority", "authority:authority", "Sign rosters, on a machine of its own."),
    Deferred("server", "server:server", "Conduct a run whose clients have machines of their own."),
    Deferred("client", "client:client", "Be an organisation's own client."),
    Deferred("ledger", "ledger:app", "Show, verify, prove or export a budget ledger."),
)

app = typer.Typer(
    name="fgrpo",
    cls=loading(COMMANDS),
    help="Federated GRPO with secure aggregation and differential privacy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in COMMANDS:
    command.add_to(app)


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
