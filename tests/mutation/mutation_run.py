"""Runs drawn mutants against the tests that reach them, and writes down which of them no test noticed.

    python tests/mutation/mutation_run.py privacy --count 400 --seed 20261123

Works in a clone under `--work`, which other work in this tree does not disturb. Finished mutants stand in
`--work/PACKAGE.jsonl` and are not run again, so an interrupted run goes on; `--again` repeats those that survived, in
the code of the present commit, with the tests that are new in it (`gone`: the changed lines were rewritten since).
`mutation_report.py` makes the result file.

One process forks one child per mutant, with all libraries of others loaded and none of ours, so that a mutant costs
the import of our packages and the tests that reach its line, fastest first, up to the first failure.
"""

import argparse
import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path

import mutants

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "privacy": ("fgrpo_secure/privacy", ["tests/fgrpo_secure/privacy"]),
    "protocols": ("protocols", ["tests/protocols"]),
}
OURS = ("fgrpo_secure", "protocols", "threat_model", "tests", "conftest", "test_")
FIRST_BUDGET = 8.0  # CPU seconds of tests per mutant; the others have theirs with --again
WALL_FACTOR = 12  # a shared machine may be this much slower than the CPU time says
FLAGS = ["-q", "--no-header", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"]
FLAGS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are loaded before the fork


def cpu() -> float:
    """CPU seconds of this process and its ended children."""
    return sum(os.times()[:4])


class Watch:
    """A pytest plugin: which lines and how much CPU time each passing test takes."""

    def __init__(self, cover: object) -> None:
        self.cover, self.started, self.costs, self.failed = cover, 0.0, {}, []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.cover.switch_context(nodeid)
        self.started = cpu()

    def pytest_runtest_logreport(self, report: object) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.costs[nodeid] = cpu() - self.started
        self.cover.switch_context("")


def observe(tree: Path, package: str, tests: list[str], out: Path) -> None:
    """Runs the unchanged package once; writes the tests of each line, their costs and the libraries they load."""
    import coverage
    import pytest

    sys.dont_write_bytecode = False  # the tests' own rewritten bytecode serves every mutant
    source, _ = PACKAGES[package]
    cover = coverage.Coverage(data_file=None, include=[f"{tree / source}/*"], branch=False)
    watch = Watch(cover)
    cover.start()
    code = pytest.main([*FLAGS, "-m", "not slow", *PROFILE, *tests], plugins=[watch])
    cover.stop()
    data = cover.get_data()
    lines: dict[str, dict[int, list[str]]] = {}
    for name in data.measured_files():
        lines[str(Path(name).relative_to(tree))] = data.contexts_by_lineno(name)
    passing = {test: cost for test, cost in watch.costs.items() if test not in watch.failed}
    libraries = [name for name in sys.modules if not name.startswith((*OURS, "_pytest", "pytest", "__"))]
    found = {"code": int(code), "lines": lines, "costs": passing, "failed": watch.failed, "libraries": libraries}
    out.write_text(json.dumps(found))


PROFILE = ["--hypothesis-profile=quick"]


def forked(work, *arguments, log: Path, cpu_seconds: float = 3600) -> str:
    """Runs `work` in a child of its own process group: "passed", "failed" or "timeout"."""
    child = os.fork()
    if child == 0:
        os.setsid()
        with log.open("wb") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds) + 1, int(cpu_seconds) + 3))
        code = 70  # none of pytest's
        try:
            code = int(work(*arguments) or 0)
        finally:
            if code == 70:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + WALL_FACTOR * cpu_seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what its tests may have left running
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "failed"
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1, 2, 4):  # 2 and 4: the tests could not even be imported
        raise RuntimeError(f"the tests ended with status {code}: see {log}")
    return "passed" if code == 0 else "failed"


def attempt(tests: list[str]) -> int:
    import pytest

    return int(pytest.main([*FLAGS, "-x", "--tb=line", *PROFILE, *tests]))


def chosen_tests(seen: dict, mutant: dict, mirrored: str, budget: float) -> list[str]:
    """The tests that reach the changed lines, those of the mirrored file and cheap ones first, within the budget.

    A line that runs at import is reached by all tests; one that no test was seen to reach, perhaps by a fixture that
    several share, is left to its mirrored file.
    """
    removed = max(1, sum(entry.startswith("-") for entry in mutant["diff"].splitlines()))
    contexts = seen["lines"].get(mutant["path"], {})
    span = range(mutant["line"], mutant["line"] + removed)
    reached = {test for line in span for test in contexts.get(str(line), [])}
    if "" in reached:
        reached = set(seen["costs"])
    elif not reached:
        reached = {test for test in seen["costs"] if mirrored in test}
    known = [test for test in reached if test in seen["costs"]]
    order = sorted(known, key=lambda test: (seen["costs"][test] > 1, mirrored not in test, seen["costs"][test]))
    spent, taken = 0.0, []
    for test in order:
        spent += seen["costs"][test]
        if spent > budget and taken:
            break
        taken.append(test)
    return taken


def prepared(work: Path, package: str, commit: str) -> Path:
    """A clone of one commit, compiled so that a changed file is always noticed."""
    tree = work / package
    if not tree.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tree)], check=True)
    subprocess.run(["git", "-C", str(tree), "fetch", "--quiet", str(ROOT), commit], check=True)
    subprocess.run(["git", "-C", str(tree), "checkout", "--quiet", "--force", commit], check=True)
    compiler = [sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode", "checked-hash"]
    subprocess.run([*compiler, "fgrpo_secure", "protocols", "threat_model"], cwd=tree, check=True)
    return tree


def at_commit(tree: Path, commit: str, path: str) -> str:
    """The file as it was when the mutants were drawn."""
    shown = subprocess.run(
        ["git", "-C", str(tree), "show", f"{commit}:{path}"], check=True, capture_output=True, text=True
    )
    return shown.stdout


def moved(mutant: dict, drawn_from: str, now: str) -> dict | None:
    """The same change in the file as it is now; None if that has not the lines just once."""
    if now == drawn_from:
        return mutant
    lines = mutant["diff"].splitlines()
    old = "".join(f"{line[1:]}\n" for line in lines if line.startswith("-"))
    new = "".join(f"{line[1:]}\n" for line in lines if line.startswith("+"))
    if not old or now.count(f"\n{old}") != 1 or lines != sorted(lines, key=lambda line: line[0] == "+"):
        return None
    at = now.index(f"\n{old}") + 1
    return {**mutant, "line": now[:at].count("\n") + 1, "source": now[:at] + new + now[at + len(old) :]}


def changed_tests(tree: Path, package: str, since: str) -> list[str]:
    """The test files of the package that are new or other than at a commit: of the old ones the result is known."""
    asked = [
        "git",
        "-C",
        str(tree),
        "diff",
        "--name-only",
        "--diff-filter=d",
        since,
        "HEAD",
        "--",
        *PACKAGES[package][1],
    ]
    names = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
    return [name for name in names if Path(name).name.startswith("test_")]


def head() -> str:
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return asked.stdout.strip()


def load_libraries(names: list[str]) -> None:
    """Imports what the tests will, so that children inherit it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            with contextlib.suppress(Exception):  # some modules exist on certain platforms or in a certain order only
                importlib.import_module(name)
    gc.freeze()  # collecting them in each child would cost more than most tests


def check_children(seen: dict, done: Path) -> None:
    """Refuses to go on if the unchanged package fails in a child, where every mutant would then seem noticed."""
    cheap = sorted(seen["costs"], key=seen["costs"].get)[: len(seen["costs"]) * 9 // 10]
    log = done.with_suffix(".log")
    if not done.exists() and forked(attempt, cheap, log=log) != "passed":
        raise SystemExit(f"the unchanged package fails: see {log}")
    done.touch()


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def draw(work: Path, package: str, count: int, seed: int) -> tuple[dict, list[dict]]:
    """The drawn mutants; drawn once, then read from the file."""
    drawn_file = work / f"{package}.drawn.json"
    if not drawn_file.exists():
        commit = head()
        tree = prepared(work, package, commit)
        source = PACKAGES[package][0]
        files = [str(path.relative_to(tree)) for path in (tree / source).rglob("*.py")]
        possible, chosen = mutants.drawn(tree, files, count, seed)
        facts = {"package": source, "commit": commit, "seed": seed, "possible": possible, "drawn": len(chosen)}
        drawn_file.write_text(json.dumps({"facts": facts, "mutants": [asdict(entry) for entry in chosen]}))
    found = json.loads(drawn_file.read_text("utf-8"))
    return found["facts"], found["mutants"]


def try_mutant(tree: Path, seen: dict, mutant: dict, budget: float, log: Path) -> dict:
    """One mutant, by the tests that reach it; the file is as before afterwards."""
    path = tree / mutant["path"]
    tests = chosen_tests(seen, mutant, f"/test_{path.stem}.py", budget)
    named = {key: mutant[key] for key in ("path", "line", "operator", "diff")}
    if not tests:  # pytest without names would run all there are
        return {**named, "outcome": "survived", "tests": 0, "by": "", "cpu": 0.0}
    allowed = 3 * sum(seen["costs"][test] for test in tests) + 15
    before, started = path.read_bytes(), cpu()
    path.write_text(mutant["source"], "utf-8")
    try:
        outcome = forked(attempt, tests, log=log, cpu_seconds=allowed)
    finally:
        path.write_bytes(before)
    verdict = {"passed": "survived", "failed": "killed", "timeout": "timeout"}[outcome]
    last = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("FAILED")]
    killer = last[0].split(" - ")[0][7:] if last else ""
    return {**named, "outcome": verdict, "tests": len(tests), "by": killer, "cpu": round(cpu() - started, 2)}


def run(chosen: list[dict], results: Path, tree: Path, seen: dict, commit: str, budget: float, since: str) -> None:
    """All mutants without a result; when drawn `since` another commit, those that survived, in this one."""
    again = since != commit
    state = {entry["number"]: entry for entry in read_lines(results)}
    for number, mutant in enumerate(chosen):
        known = state.get(number)
        if (known is None) == again or (known and (known["outcome"] != "survived" or known["commit"] == commit)):
            continue
        present = moved(mutant, at_commit(tree, since, mutant["path"]), (tree / mutant["path"]).read_text("utf-8"))
        if present is None:
            done = {**known, "outcome": "gone"}
        else:
            done = try_mutant(tree, seen, present, budget, results.with_suffix(".last.log"))
        first = {"first": known.get("first", known["outcome"])} if known else {}
        with results.open("a", encoding="utf-8") as sink:
            sink.write(json.dumps({**done, **first, "number": number, "commit": commit}) + "\n")
        sys.stdout.write(f"{number} {done['outcome']} {done['path']}:{done['line']} {done['cpu']}\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", choices=sorted(PACKAGES))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutation")
    parser.add_argument("--again", action="store_true", help="repeat the survivors with new tests")
    parser.add_argument("--budget", type=float, help="CPU seconds of tests per mutant")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    facts, chosen = draw(asked.work, asked.package, asked.count, asked.seed)
    sys.stdout.write(f"{facts}\n")
    commit = head() if asked.again else facts["commit"]
    tree = prepared(asked.work, asked.package, commit)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path.insert(0, str(tree))
    seen_file = asked.work / f"{asked.package}.{commit[:12]}.json"
    if not seen_file.exists():
        tests = changed_tests(tree, asked.package, facts["commit"]) if asked.again else PACKAGES[asked.package][1]
        if not tests:
            sys.stdout.write("no test changed since the mutants were drawn\n")
            return
        forked(observe, tree, asked.package, tests, seen_file, log=asked.work / f"{asked.package}.observed.log")
    seen = json.loads(seen_file.read_text("utf-8"))
    sys.stdout.write(f"{len(seen['costs'])} tests, {sum(seen['costs'].values()):.0f} s; failing: {seen['failed']}\n")
    load_libraries(seen["libraries"])
    check_children(seen, seen_file.with_suffix(".checked"))
    results = asked.work / f"{asked.package}.jsonl"
    run(chosen, results, tree, seen, commit, asked.budget or (1e9 if asked.again else FIRST_BUDGET), facts["commit"])


if __name__ == "__main__":
    main()
