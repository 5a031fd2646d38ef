"""Promises about the repository itself: sizes, names, versions, dependencies, documents, and what the wheel carries."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from threat_model import registry, weakened
from threat_model.attack import Attack

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = [name for name in ("fgrpo_secure", "protocols", "threat_model") if (ROOT / name).is_dir()]
FOLDERS = [name for name in (*PACKAGES, "tests", "examples", "benchmarks", "docs") if (ROOT / name).is_dir()]
SHIPPED = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PYTHON = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
ADRS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
# Where it is not the distribution's own name.
IMPORTED_AS = {
    "huggingface-hub": {"huggingface_hub"},
    "math-verify": {"math_verify", "sympy"},  # what it reads texts into
    "reasoning-gym": {"reasoning_gym"},
    "pyyaml": {"yaml"},
    "mlflow-skinny": {"mlflow"},
    "pynacl": {"nacl"},
    "pydantic": {"pydantic", "pydantic_core"},
    "dp-accounting": {"dp_accounting"},
    "prometheus-client": {"prometheus_client"},
}
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME|X{3}|H[A]CK|raise NotImplemented[E]rror)\b")
NAMELESS = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def requirements(extra: str | None = None) -> list[Requirement]:
    project = SETTINGS["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(line) for line in lines]


def constraints(file: str = "constraints.txt") -> dict[str, Requirement]:
    lines = (ROOT / file).read_text("utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(entry.name): entry for entry in found}


def package_version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "fgrpo_secure" / "__init__.py").read_text("utf-8"), re.M)
    assert found
    return found[1]


def outside_imports(path: Path) -> Iterator[str]:
    """Top-level names of everything a file imports that is neither ours nor the standard library's."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        for module in modules:
            top = module.partition(".")[0]
            if top not in PACKAGES and top not in sys.stdlib_module_names:
                yield top


# The second implementation is one file on purpose: it is read from top to bottom beside SPEC.md.
SIZED = [path for path in PYTHON if "tests/reference" not in path.as_posix()]


@pytest.mark.parametrize("path", SIZED, ids=relative)
def test_a_file_has_at_most_400_lines_and_a_function_at_most_50(path: Path) -> None:
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= 400
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {n.name: size for n in functions if (size := (n.end_lineno or n.lineno) - n.lineno + 1) > 50}
    assert long == {}


def test_every_module_has_a_name_that_says_what_it_is_for() -> None:
    assert [relative(path) for path in PYTHON if path.name in NAMELESS] == []


def test_nothing_is_left_unfinished() -> None:
    texts = [*PYTHON, *PAGES, ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    assert [relative(path) for path in texts if UNFINISHED.search(path.read_text("utf-8"))] == []


def test_every_package_is_typed_and_under_the_import_contracts() -> None:
    contracts = SETTINGS["tool"]["importlinter"]
    layers = next(entry["layers"] for entry in contracts["contracts"] if entry["type"] == "layers")
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)
    assert sorted(contracts["root_packages"]) == sorted(PACKAGES)
    assert sorted(layers) == sorted(PACKAGES)


def test_the_version_has_one_source_and_an_entry_in_the_changelog() -> None:
    assert SETTINGS["project"]["dynamic"] == ["version"]
    assert SETTINGS["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fgrpo_secure.__version__"}
    assert f"## {package_version()}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_installed_distribution_has_the_version_of_the_source() -> None:
    try:
        installed = importlib.metadata.version("fgrpo-secure")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the project is not installed here")
    assert installed == package_version()


def test_every_declared_dependency_is_pinned_inside_its_range() -> None:
    pinned = constraints()
    for wanted in (*requirements(), *requirements("dev")):
        (pin,) = pinned[canonicalize_name(wanted.name)].specifier
        assert pin.operator == "==", wanted
        assert "+" not in pin.version, "a local version tag is not installable everywhere"
        assert wanted.specifier.contains(pin.version), wanted


@pytest.mark.parametrize("end", ["oldest", "newest"])
def test_each_end_pins_every_library_inside_its_range_and_torch_as_it_is_tested(end: str) -> None:
    pinned = constraints(f"constraints/{end}.txt")
    for wanted in requirements():
        (pin,) = pinned[canonicalize_name(wanted.name)].specifier
        assert pin.operator == "==", wanted
        assert "+" not in pin.version, "a local version tag is not installable everywhere"
        assert wanted.specifier.contains(pin.version), wanted
    assert pinned["torch"] == constraints()["torch"]


def test_the_oldest_end_is_the_lower_bound_of_every_library() -> None:
    pinned = constraints("constraints/oldest.txt")
    for wanted in requirements():
        lower = [Version(bound.version) for bound in wanted.specifier if bound.operator == ">="]
        (pin,) = pinned[canonicalize_name(wanted.name)].specifier
        assert wanted.name == "torch" or lower == [Version(pin.version)], wanted


def test_a_library_without_an_upper_bound_is_one_whose_major_versions_change_little() -> None:
    open_ended = {wanted.name for wanted in requirements() if not any(s.operator == "<" for s in wanted.specifier)}
    assert open_ended == {"cryptography", "regex", "rich"}  # regex numbers its versions by date


def test_continuous_integration_runs_both_ends() -> None:
    assert "make ends" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_what_the_packages_import_is_a_declared_dependency() -> None:
    extras = (None, "data", "math", "mlflow", "postgres", "ray", "tasks", "trl")
    names = {canonicalize_name(each.name) for extra in extras for each in requirements(extra)}
    declared = {module for name in names for module in IMPORTED_AS.get(name, {name})}
    missing = {top for path in SHIPPED for top in outside_imports(path)} - declared
    assert missing == set()


def test_the_test_command_of_the_readme_is_the_one_that_continuous_integration_runs() -> None:
    commands = re.findall(r"^make \w+", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert {"make demo", "make test"} <= set(commands)
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_decision_record_is_numbered_complete_and_listed() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text("utf-8")
    numbers = [int(path.name[:4]) for path in ADRS]
    assert numbers == sorted(set(numbers)), "no number is used twice"
    for path in ADRS:
        text = path.read_text("utf-8")
        headings = re.findall(r"^## (\w+)", text, re.M)
        assert headings == ["Context", "Options", "Choice", "Price"], path.name
        assert len(text.splitlines()) <= 60, f"{path.name} is longer than a page"
        assert f"]({path.name})" in index, path.name
    assert len(re.findall(r"\]\(\d{4}", index)) == len(ADRS)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_and_every_test_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    for name, test in re.findall(r"`(tests/[\w/.-]+?\.py)(?:::(\w+))?`", text):
        assert (ROOT / name).is_file(), name
        assert not test or f"def {test}(" in (ROOT / name).read_text("utf-8"), test


def test_every_check_that_an_attack_removes_stands_in_the_source_as_the_attack_names_it() -> None:
    """A change of such a line changes its attack too: see `weakenings` in threat_model/attacks/."""
    assert [problem for attack in registry.ATTACKS if (problem := unfit(attack))] == []


def unfit(attack: Attack) -> str:
    try:
        weakened.diff(attack.weakenings)
    except weakened.CannotWeaken as problem:
        return f"{attack.name}: {problem}"
    return ""


def test_where_is_it_names_functions_that_stand_in_those_files() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## Where is it?")[1]
    rows = re.findall(r"^\|.*`([\w/]+\.py)`.* \| `([\w.]+)` \|$", table, re.MULTILINE)
    assert len(rows) == table.count(".py`") > 15
    for path, name in rows:
        defined = set(_defined(ast.parse((ROOT / path).read_text("utf-8"))))
        assert name in defined, f"{path} has no {name}"


def _defined(tree: ast.Module | ast.ClassDef, within: str = "") -> Iterator[str]:
    """Functions and methods, a method as CLASS.METHOD."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield f"{within}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _defined(node, f"{node.name}.")
