"""What a user installs: the source distribution, the wheel built from it, and that wheel far from this folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fgrpo_secure", "protocols", "threat_model")
FOLDERS = (*PACKAGES, "tests", "examples", "benchmarks", "docs", "constraints", ".ci")
DATA = ("config/presets/*.toml", "learning/tasks/base_model/*", "evidence/*.json", "report/*.j2", "report/*.css")
BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"
TINY = ("federation.rounds=1", "federation.local_steps=1", "engine.processes=1", "evaluation.prompts=1")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # it installs and starts whole processes


def built(kind: str, source: Path, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, env=bare_environment())
    (archive,) = out.iterdir()
    return archive


def bare_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def files_of(folder: Path) -> set[str]:
    found = (path.relative_to(ROOT) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts and path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for path in ROOT.iterdir():  # not the environment, the history or what was built here
        if path.is_file():
            shutil.copy(path, source)
        elif path.name in FOLDERS:
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    return built("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the unpacked source distribution, so that this is shown to be complete."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # noqa: S202
    (source,) = folder.iterdir()
    return built("wheel", source, tmp_path_factory.mktemp("wheel"))


def test_the_source_distribution_carries_everything_that_pages_link_to_and_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    tops = {path.name for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")} | {
        ".editorconfig"
    }
    assert names - made == tops | {name for folder in FOLDERS for name in files_of(ROOT / folder)}


def test_the_wheel_carries_the_packages_their_data_and_nothing_else(wheel: Path) -> None:
    carried = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {name for package in PACKAGES for name in files_of(ROOT / package) if name.endswith(".py")}
    data = {path.relative_to(ROOT).as_posix() for pattern in DATA for path in ROOT.glob(f"fgrpo_secure/{pattern}")}
    marks = {f"{package}/py.typed" for package in PACKAGES} | {"protocols/SPEC.md", "threat_model/README.md"}
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "fgrpo_secure" / "__init__.py").read_text("utf-8"), re.M)
    assert version
    assert wheel.name.startswith(f"fgrpo_secure-{version[1]}-")
    assert carried == code | data | marks


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `fgrpo` of a fresh environment that holds the wheel. It borrows the libraries of this one: a path file does
    not pass on the editable installation that may be among them.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, env=bare_environment())
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    target = ["--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-deps", "--no-index"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *target, "--force-reinstall", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, env=bare_environment(), cwd=folder)
    assert (site / "fgrpo_secure").is_dir()
    return folder / "bin" / "fgrpo"


def test_the_installed_wheel_plans_runs_and_verifies_far_from_the_repository(installed: Path, tmp_path: Path) -> None:
    def fgrpo(*arguments: str) -> str:
        command = [str(installed), *arguments]
        environment = bare_environment() | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import fgrpo_secure, protocols, threat_model; print(fgrpo_secure.__file__)"
    python = installed.with_name("python")
    found = subprocess.run([str(python), "-P", "-c", where], cwd=tmp_path, env=bare_environment(), capture_output=True)
    assert Path(found.stdout.decode().strip()).is_relative_to(installed.parents[1]), found.stderr.decode()
    assert "adapter.dimension" in fgrpo("plan", "quickstart", "--json")
    fgrpo("run", "silos", "--out", "tiny", *(part for setting in TINY for part in ("--set", setting)))
    assert (tmp_path / "tiny" / "report.html").is_file()
    assert "verifies" in fgrpo("verify", "tiny")
    assert "mechanism" in fgrpo("audit", "--help")
