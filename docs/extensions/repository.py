"""A Sphinx extension: pages whose text is a file of the repository's root, and links to files that are no pages."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
REPOSITORY = "https://github.com/kpp-pyro/kpp-pyro"
TEXTS = {"results": "RESULTS.md", "changes": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}  # of pages

_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=(?:#[^)\s]*)?\))")
_PAGES = {ROOT / text: DOCS / f"{page}.md" for page, text in TEXTS.items()} | {ROOT / "README.md": DOCS / "index.md"}


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
    app.connect("source-read", process)
    return {"parallel_read_safe": True}
