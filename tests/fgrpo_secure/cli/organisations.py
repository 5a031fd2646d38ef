"""Organisations of a federation by their commands: what the tests of `authority`, `server` and `client` share."""

from typer.testing import CliRunner

from fgrpo_secure.cli import app

NAMES = ("north", "south", "east", "west", "centre")
RUN = (
    '[run]\nname = "five"\n[federation]\nclients = 5\nrounds = 1\n[engine]\nkind = "https"\n[adapter]\nrank = 1\n'
    '[aggregation]\nadversary = "lying_server"\nmax_dropout = 0.2\n'
    "[grpo]\nnum_generations = 2\nprompts_per_step = 1\nmax_completion_length = 4\n"
    '[evaluation]\ntasks = ["add"]\nprompts = 2\nsamples = 1\nevery = 0\n'
)
URL = ("--url", "https://server.example:8443")


def call(*arguments, **more):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **more)


def said(*arguments):
    outcome = call(*arguments)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout.strip()


def state(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def unchanged(place, code, *arguments, **more):
    """The one sentence of a command that is refused and changes nothing."""
    before = state(place)
    outcome = call(*arguments, **more)
    assert outcome.exit_code == code, outcome.output
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1, outcome.stderr
    assert "Traceback" not in outcome.output
    assert state(place) == before
    return lines[0]
