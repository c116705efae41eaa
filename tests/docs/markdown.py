"""What the Markdown files of the project hold: blocks of commands and of Python, code in the text, and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.experiments.running import ROOT

DOCS = ROOT / "docs"
_COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->\s*$", re.DOTALL)
_CODE = re.compile(r"^\{code(?:-block|-cell)?\}\s*")  # a block of code as a directive of MyST


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file.
        line: number of its first line of text, from 1.
        language: such as "bash" and "python"; empty where none is given.
        text: what stands between the fences.
        mark: the HTML comment in front of it, without its arrows; empty if there is none.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def marked(self, kind: str) -> str | None:
        """What a mark `KIND: TEXT` says; None without a mark of the kind."""
        found, colon, text = self.mark.partition(":")
        return text.strip() if colon and found == kind else None


def pages() -> list[Path]:
    """The Markdown files that say how things are now; the change log says how they were."""
    cards = (ROOT / "experiments").rglob("README.md")
    written = {path for path in DOCS.rglob("*.md") if "generated" not in path.parts}
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "RESULTS.md", *sorted(written), *sorted(cards)]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order, those inside of directives too."""
    return list(_blocks(page, _tokens(page.read_text())))


def _blocks(page: Path, tokens: list[Token], above: int = 1) -> Iterator[Block]:
    before: Token | None = None
    for token in tokens:
        if token.type == "fence":
            assert token.map is not None
            line = above + token.map[0] + 1
            info, is_code = _CODE.subn("", token.info.strip())
            if info.startswith("{") and not is_code:
                yield from _blocks(page, _tokens(token.content), line)
            else:
                yield Block(page, line, (info.split() or [""])[0], token.content, _comment(before))
        before = token


def comments(page: Path) -> list[str]:
    """The HTML comments of a page that are blocks of their own."""
    return [_comment(token) for token in _tokens(page.read_text()) if _comment(token)]


def code_spans(page: Path) -> list[str]:
    """Code inside of the text."""
    return [token.content for token in _inline(page) if token.type == "code_inline"]


def links(page: Path) -> list[str]:
    """Where the links and the pictures of a page lead."""
    found = [token.attrs.get("href") or token.attrs.get("src") for token in _inline(page)]
    return [str(target) for target in found if target]


def _inline(page: Path) -> Iterator[Token]:
    for token in _tokens(page.read_text()):
        for child in token.children or ():
            yield child
            yield from child.children or ()  # a picture in a link


def _comment(token: Token | None) -> str:
    match = _COMMENT.match(token.content) if token is not None and token.type == "html_block" else None
    return match[1] if match else ""


@cache
def _tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)
