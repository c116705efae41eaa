"""The files around the code agree: version, citation, change log, container."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from tests.docs.markdown import blocks
from tests.experiments.running import ROOT, run

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = SETTINGS["project"]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGES = (ROOT / "CHANGELOG.md").read_text()
VERSION = Version(PROJECT["version"])
GROUPS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]  # of Keep a Changelog, in its order
RELEASE = re.compile(r"\[(.+)\] - (\d{4}-\d\d-\d\d)")
PAPER = "arXiv:2103.03905"


def headings(level: int, text: str) -> list[str]:
    return re.findall(rf"^{'#' * level} (.*)$", text, re.MULTILINE)


def releases() -> dict[Version, str]:
    """The dates of the releases in the change log."""
    unreleased, *found = headings(2, CHANGES)
    assert unreleased == "[Unreleased]"
    dates = [match.groups() for heading in found if (match := RELEASE.fullmatch(heading))]
    assert len(dates) == len(found)
    return {Version(version): date for version, date in dates}


def test_the_version_is_that_of_a_release_or_of_the_next_one() -> None:
    assert str(VERSION) == PROJECT["version"]
    assert len(VERSION.release) == 3
    if VERSION.is_devrelease:
        assert VERSION.dev == 0 and all(version < VERSION for version in releases())
    else:
        assert next(iter(releases())) == VERSION


def test_releases_are_in_order() -> None:
    assert list(releases()) == sorted(releases(), reverse=True)


def test_changes_are_in_the_groups_of_keep_a_changelog() -> None:
    _, *versions = re.split(r"^## ", CHANGES, flags=re.MULTILINE)
    for version in versions:
        found = headings(3, version)
        assert found == [group for group in GROUPS if group in found]


def test_every_version_of_the_change_log_is_a_link() -> None:
    for name in ["Unreleased", *map(str, releases())]:
        assert f"\n[{name}]: {PROJECT['urls']['Homepage']}/" in CHANGES


def test_the_citation_is_what_the_format_requires_and_the_version_s() -> None:
    """The keys that version 1.2.0 of the Citation File Format requires, and those that say what was cited."""
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["message"] and CITATION["title"] and CITATION["type"] == "software"
    assert [author["name"] for author in CITATION["authors"]] == [author["name"] for author in PROJECT["authors"]]
    assert CITATION["version"] == PROJECT["version"]
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["repository-code"] == PROJECT["urls"]["Source"]
    assert CITATION["keywords"] == PROJECT["keywords"]
    released = None if VERSION.is_devrelease else releases()[VERSION]
    assert str(CITATION.get("date-released")) == str(released)  # YAML has dates


def test_the_paper_is_a_reference_with_its_authors() -> None:
    (paper,) = CITATION["references"]
    assert paper["type"] == "conference-paper" and paper["title"] and paper["year"] == 2021
    assert [author["family-names"] for author in paper["authors"]] == ["Ramapuram", "Wu", "Kalousis"]
    assert all(author["given-names"] for author in paper["authors"])
    assert [identifier["value"] for identifier in paper["identifiers"]] == [PAPER]


def test_bibtex_says_what_the_citation_says() -> None:
    (block,) = [block for block in blocks(ROOT / "docs" / "citing.md") if block.language == "bibtex"]
    software, paper = re.split(r"^(?=@)", block.text, flags=re.MULTILINE)[1:]
    assert f"title   = {{{CITATION['title']}}}" in software and f"version = {{{CITATION['version']}}}" in software
    (cited,) = CITATION["references"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in cited["authors"])
    for value in (authors, cited["title"], cited["collection-title"], str(cited["year"]), cited["url"]):
        assert f"{{{value}}}" in paper


@pytest.mark.parametrize("name", ["Homepage", "Documentation", "Source", "Changelog", "Issues"])
def test_the_package_index_is_told_where_the_project_is(name: str) -> None:
    assert PROJECT["urls"][name].startswith(("https://github.com/kpp-pyro/kpp-pyro", "https://kpp-pyro.github.io/"))


@pytest.fixture
def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, with their arguments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for line in text.splitlines() if line for word, _, rest in [line.partition(" ")]]


def test_what_the_container_copies_is_there_and_is_sent_to_the_builder(instructions: list[tuple[str, str]]) -> None:
    sources = [source for word, rest in instructions if word == "COPY" for source in shlex.split(rest)[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(sources) == sorted(sent)
    needed = {Path(name).parts[0] for name in ("pyproject.toml", PROJECT["readme"], *PROJECT["license-files"])}
    packages = {name.partition(".")[0] for name in SETTINGS["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert needed | packages == set(sources)


def test_the_container_trains_as_a_user_who_may_write_to_the_runs(instructions: list[tuple[str, str]]) -> None:
    arguments = dict(instructions)  # of the last instruction of each kind
    user, folder = arguments["USER"], arguments["VOLUME"]
    assert (user, folder) != ("root", "/")
    assert any(word == "RUN" and f"--owner={user} {folder}" in rest for word, rest in instructions)
    command, *flags = json.loads(arguments["CMD"])
    assert PROJECT["scripts"][command] == "experiments.svi_train:command"
    dry = run("svi_train.py", *flags, "--dry-run")
    assert dry.returncode == 0 and json.loads(dry.stdout)["data"]["dataset"] == "digits"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_may_only_read_unless_a_job_says_otherwise(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] and all(step.keys() & {"run", "uses"} for step in job["steps"])
