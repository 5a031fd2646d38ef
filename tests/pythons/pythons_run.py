"""What needs no torch, on another Python: `make pythons`, or `python tests/pythons/pythons_run.py python3.13`.

The wheel goes into a fresh environment outside of this folder, with the dependencies that pyproject.toml names but
torch and those that bring it; tests run there against what was installed, never against this folder's packages.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
BRING_TORCH = {"opacus", "peft", "torch", "transformers"}
TESTED_WITH = ["hypothesis", "pytest", "pytest-randomly", "pytest-timeout"]
ROOMS = ["protocols", *(f"fgrpo_secure/{room}" for room in ("config", "ledger", "plan", "privacy"))]
# These compare with a library that brings torch or has no wheel everywhere, need a model, or read measurements.
LEFT_OUT = (
    "fgrpo_secure/plan/test_adapter_shape.py",
    "fgrpo_secure/plan/test_adaptive_clip.py",
    "fgrpo_secure/plan/test_advice.py",
    "fgrpo_secure/plan/test_forecast.py",
    "fgrpo_secure/plan/test_terms.py",
    "fgrpo_secure/privacy/test_accounting.py",
    "fgrpo_secure/privacy/test_crosscheck.py",
    "fgrpo_secure/privacy/test_discrete_gaussian.py",
    "fgrpo_secure/privacy/test_sampled.py",
)
COMMANDS = (["--version"], ["--help"], ["config", "privacy.epsilon"], ["plan", "quickstart"], ["plan", "hospitals"])


def main(python: str) -> None:
    """Raises CalledProcessError at the first command that fails."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        binaries = install(python, folder)
        (folder / "empty").mkdir()
        for command in COMMANDS:
            run([str(binaries / "fgrpo"), *command], folder / "empty")
        for name in ("docs", "examples", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for room in ROOMS:
            left_out = [f"--ignore=tests/{name}" for name in LEFT_OUT]
            # Each room under its own conftest: that of the rooms together loads models.
            options = [
                "-q",
                "-m",
                "not slow",
                "--hypothesis-profile=quick",
                "-p",
                "tests.conftest",
                f"--confcutdir=tests/{room}",
            ]
            run([str(binaries / "python"), "-m", "pytest", *options, *left_out, f"tests/{room}"], folder)


def install(python: str, folder: Path) -> Path:
    """Where the environment's programs are, with the wheel and what it needs without torch."""
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheels", str(ROOT)], folder)
    run([python, "-m", "venv", "environment"], folder)
    pip = [
        str(folder / "environment" / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    named = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    needed = [each for each in named if Requirement(each).name not in BRING_TORCH]
    run([*pip, "--constraint", str(ROOT / "constraints.txt"), *needed, *TESTED_WITH], folder)
    (wheel,) = (folder / "wheels").iterdir()
    run([*pip, "--no-deps", str(wheel)], folder)
    return folder / "environment" / "bin"


def run(command: list[str], folder: Path) -> None:
    """One command, as it is, where nothing of this folder is on the import path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        main(each)
