"""Python that readers are shown runs: the blocks of every page in the page's order, and the notebook's cells.

Sizes are reduced, as for the commands that pages print; nothing else is changed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOK = ROOT / "examples" / "federation.ipynb"
SIZES = (
    "federation.rounds=1", "grpo.num_generations=2", "evaluation.prompts=1", "evaluation.samples=1",
    "evaluation.every=0", "engine.processes=1",
)  # fmt: skip
REDUCED = f"""
from fgrpo_secure import Federation
as_printed = Federation.from_toml
Federation.from_toml = staticmethod(lambda source, *overrides: as_printed(source, *overrides, *{SIZES!r}))
"""
# Uses a folder that the page's commands make: `tests/test_documented_commands.py` runs both.
AFTER_COMMANDS = {"docs/tutorial.md"}


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p) and relative(p) not in AFTER_COMMANDS], ids=relative)
def test_the_python_of_a_page_runs_as_printed(page: Path, tmp_path: Path) -> None:
    code = "\n".join([REDUCED, *blocks(page)])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_blocks_are_found() -> None:
    assert {"docs/reference/python.md", "docs/how-to/from-trl.md", *AFTER_COMMANDS} <= {
        relative(page) for page in PAGES if blocks(page)
    }


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Path(sys.executable).parent  # where `fgrpo` is, whether or not the environment was activated
    monkeypatch.setenv("PATH", f"{beside}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = next(cell for cell in notebook.cells if "ROUNDS = 6" in cell.source)
    settings.source = settings.source.replace("ROUNDS = 6", "ROUNDS = 1")
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert "verifies." in "".join(output.get("text", "") for output in outputs)


def test_the_notebook_is_kept_without_outputs() -> None:
    """So that a difference of two versions is what its author changed."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert [cell.id for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
