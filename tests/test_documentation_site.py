"""The documentation as a site: strict, whole, and readable without a network."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "protocols" / "SPEC.md"])
# What a browser fetches by itself; a link (`<a href>`) waits for its reader.
FETCHED = re.compile(r'<(?!a\b)[^>]*\b(?:src|href)="((?:https?:)?//[^"]+)"')


def build(root: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    """As `make docs` does. Not with --quiet, which hides warnings from mkdocs' own strictness."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(target)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_every_page_is_on_the_site(site: Path) -> None:
    for page in PAGES:
        at = page.relative_to(ROOT).with_suffix(".html")
        assert (site / (at.with_name("index.html") if at.name == "README.html" else at)).is_file(), at


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    found = {path.name: FETCHED.findall(path.read_text("utf-8")) for path in site.rglob("*.html")}
    assert len(found) > 40
    assert {name: links for name, links in found.items() if links} == {}
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^)\"']+)", styles) == []


def test_the_search_for_foreign_resources_finds_one() -> None:
    page = '<a href="https://a/">x</a><link href="https://b/x.css"><script src="//c/x.js"></script><img src="x.svg">'
    assert FETCHED.findall(page) == ["https://b/x.css", "//c/x.js"]


def test_a_dead_link_a_dead_anchor_and_a_page_outside_the_menu_fail(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in ("docs", "benchmarks/results", "protocols", "threat_model"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.py", "*.json*"))
    for name in (
        "mkdocs.yml",
        "examples/federation.ipynb",
        "docs/site/layout.py",
        "fgrpo_secure/server/engine.py",
        *(p.name for p in ROOT.glob("*.md")),
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (copy / "docs" / "lost.md").write_text("[a](nowhere.md) [b](index.md#nowhere)")
    done = build(copy, tmp_path / "site")
    assert done.returncode == 1
    assert "Aborted with 3 warnings in strict mode" in done.stdout + done.stderr
