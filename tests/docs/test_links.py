"""Every link of a Markdown file to a file of the project leads to one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.markdown import links, pages
from tests.experiments.running import ROOT

REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
RAW = REPOSITORY.replace("//github.com/", "//raw.githubusercontent.com/")
_OURS = re.compile(rf"(?:{REPOSITORY}/(?P<kind>blob|tree|raw)|{RAW})/(?P<branch>[^/]+)/(?P<path>[^#?]*)")
_ELSEWHERE = re.compile(r"[a-z]+:|#")


def target(page: Path, link: str) -> Path | None:
    """The file or folder of the project that a link leads to; None for others."""
    if ours := _OURS.match(link):
        assert ours["branch"] == "main", link
        return ROOT / ours["path"]
    return None if _ELSEWHERE.match(link) else page.parent / link.partition("#")[0]


@pytest.mark.parametrize("page", [*pages(), ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_to_a_file_of_the_project_leads_to_one(page: Path) -> None:
    found = {link: path for link in links(page) if (path := target(page, link))}
    assert not [link for link, path in found.items() if not path.exists()]
    assert not [link for link, path in found.items() if "/blob/" in link and not path.is_file()]
    assert not [link for link, path in found.items() if "/tree/" in link and not path.is_dir()]


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("docs/models.md#a-heading", ROOT / "docs" / "models.md"),
        (f"{REPOSITORY}/blob/main/LICENSE", ROOT / "LICENSE"),
        (f"{RAW}/main/docs/figures/curves.png", ROOT / "docs" / "figures" / "curves.png"),
        (REPOSITORY, None),
        ("https://pyro.ai", None),
        ("#a-heading", None),
    ],
)
def test_links_to_the_project_are_told_from_others(link: str, path: Path | None) -> None:
    assert target(ROOT / "README.md", link) == path
