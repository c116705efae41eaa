"""A Sphinx extension: pages whose text is a file outside of `docs`, and links to files that are no pages."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
TEXTS = {"results": "RESULTS.md", "changes": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}  # of pages

_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=(?:#[^)\s]*)?\))")
_NOTEBOOKS = ROOT / "experiments" / "notebooks"
_PAGES = {
    **{ROOT / text: DOCS / f"{page}.md" for page, text in TEXTS.items()},
    **{notebook: DOCS / "notebooks" / notebook.name for notebook in _NOTEBOOKS.glob("*.ipynb")},
    ROOT / "README.md": DOCS / "index.md",
}


def copy_notebooks(app: Sphinx) -> None:
    """Copy the notebooks, with their results, to `docs/notebooks`: a page has to lie below `docs`."""
    copies = DOCS / "notebooks"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for notebook in _NOTEBOOKS.glob("*.ipynb"):
        shutil.copy2(notebook, copies)  # with its time, so that an unchanged one is not read again


def process(app: Sphinx, docname: str, source: list[str]) -> None:
    """Take the text of a page from the root, and turn its links to files into links that a site can have.

    Raises:
        SphinxError: a link names no file.
    """
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    text = ROOT / TEXTS[docname] if docname in TEXTS else page

    def link(match: re.Match[str]) -> str:
        path = (text.parent / match[0]).resolve()
        if not path.exists():
            raise SphinxError(f"{text.relative_to(ROOT)}: expected a file to link to, found no {match[0]}")
        path = _PAGES.get(path, path)
        if path.is_relative_to(DOCS):
            return os.path.relpath(path, page.parent)
        return f"{REPOSITORY}/{'tree' if path.is_dir() else 'blob'}/main/{path.relative_to(ROOT)}"

    source[0] = _LINK.sub(link, text.read_text())


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", copy_notebooks)
    app.connect("source-read", process)
    return {"parallel_read_safe": True}
