"""Gives the site the layout of the repository, so that one relative link works in both.

mkdocs knows pages below docs/ only, as if that were the root. Here they move to where they are, docs/..., and the pages
and pictures beside them join: README.md is the site's first page. Cells of tables get their column's name, which a
phone shows before each, because a row of five columns is a list there (site.css).
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
BESIDE_DOCS = (
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "protocols/SPEC.md",
    "threat_model/README.md",
    "examples/federation.ipynb",
    "fgrpo_secure/server/engine.py",  # decision 0024 links to it
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "benchmarks" / "results").glob("*.svg"))),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Every file under its path in the repository; those of the theme stay as they are."""
    moved = [
        File.generated(config, f"docs/{file.src_uri}", abs_src_path=file.abs_src_path)
        if file.src_dir == config.docs_dir
        else file
        for file in files
    ]
    return Files([*moved, *(File.generated(config, name, abs_src_path=str(ROOT / name)) for name in BESIDE_DOCS)])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - as mkdocs calls it
    """The page's tables with the column's name at each cell."""
    return re.sub(r"<table>.*?</table>", lambda table: _labelled(table[0]), html, flags=re.S)


def _labelled(table: str) -> str:
    names = [re.sub(r"<[^>]+>", "", name).strip() for name in re.findall(r"<th(?: [^>]*)?>(.*?)</th>", table, re.S)]
    row = re.compile(r"<tr>(\s*<td.*?)</tr>", re.S)
    return row.sub(lambda found: f"<tr>{_cells(found[1], names)}</tr>", table)


def _cells(row: str, names: list[str]) -> str:
    parts = row.split("<td")
    labels = [name.replace('"', "&quot;") for name in names]
    return parts[0] + "".join(f'<td data-column="{name}"{part}' for name, part in zip(labels, parts[1:], strict=True))
