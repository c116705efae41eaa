"""The table of an ablation, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.shared.ablation.results import (
    COST,
    COST_WITH_MEMORY,
    GAIN,
    NEGATIVE_ELBO,
    SECONDS,
    UNTRUSTED,
    UNTRUSTED_WITH_MEMORY,
)
from experiments.shared.arguments import number
from inference.importance.estimator import TOLERATED_SHARE
from kpp_pyro.likelihoods import kl_sites

_WITH_ERRORS = {COST: "−ln p̂", COST_WITH_MEMORY: "complete −ln p̂", NEGATIVE_ELBO: "−ELBO given M"}
_SHARES = {UNTRUSTED: "k-hat > limit", UNTRUSTED_WITH_MEMORY: "complete: k-hat > limit"}
_NOT_APPLICABLE = "–"


def describe_ablation(content: Mapping[str, Any]) -> str:
    """The content of ablation.json as Markdown."""
    rows, failed = content["rows"], [cell for cell in content["cells"] if cell["failure"]]
    lines = [f"# {content['title']}", "", *_heading(content), ""]
    lines += _markdown([_titles(rows), *(_texts(rows, row) for row in rows)])
    if failed:
        lines += ["", "Failed:", "", *(f"- `{cell['name']}`: {cell['failure']}" for cell in failed)]
    return "\n".join(lines) + "\n"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV: unrounded means, and the standard error of each over seeds."""
    quantities = _quantities(rows)
    titles = [*rows[0]["labels"], "seeds", "seeds_finished", "trustworthy", "limit_nats_per_image"]
    titles += [title for name in quantities for title in (name, f"{name}_standard_error")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    for row in rows:
        means, errors = row["mean"], row["standard_error"]
        numbers = [value for name in quantities for value in (means.get(name), errors.get(name))]
        known = [row[name] for name in ("seeds", "seeds_finished", "trustworthy", "limit_nats_per_image")]
        writer.writerow([*row["labels"].values(), *known, *numbers])  # None becomes an empty field
    return text.getvalue()


def _heading(content: Mapping[str, Any]) -> list[str]:
    stated = content["stated"]
    if not stated:
        return ["No cell is finished.", "", f"Command: `{content['command']}`"]
    limits = list(dict.fromkeys(row["limit_nats_per_image"] for row in content["rows"] if row["seeds_finished"]))
    return [
        f"{_all(stated['images'])} {_all(stated['split'])} images of {_all(stated['dataset'])} "
        f"({_all(stated['binarization'])} binarization), T = {_all(stated['episode_length'])} images per episode, "
        f"{_all(stated['steps'])} steps, K = {_all(stated['particles'])} particles. "
        "Nats per image, lower is better; mean ± standard error over seeds (? with one seed). "
        "≤ marks an upper bound: k-hat is above its limit, min(1 - 1 / log10 K, 0.7), for too many images. "
        f"{_choice(limits)}The complete cost includes that of the memory; the others are given a memory.",
        "",
        f"{_all(stated['hardware'])}, {_all(stated['precision'])}; {_all(stated['versions'])}; "
        f"commit {_all(stated['commit'])}.",
        "",
        f"Command: `{content['command']}`",
    ]


def _choice(limits: Sequence[float]) -> str:
    """What it costs to say which image of the episode is read, unless their order says it."""
    costs = ", ".join(number(limit) for limit in limits if limit)
    return f"The choice of an image of the episode costs ln T = {costs}. " if costs else ""


def _all(values: Sequence[Any]) -> str:
    """The value that all cells share, or all values."""
    return ", ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in values)


def _quantities(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of all quantities, in the order of the columns."""
    names = list(dict.fromkeys(name for row in rows for name in row["mean"]))
    order = [*_WITH_ERRORS, *kl_sites(names), GAIN, "parameters", "memory_scalars", SECONDS, *_SHARES]
    return [name for name in order if name in names]


def _titles(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    named = {"memory_scalars": "memory scalars", SECONDS: "training s", **_SHARES, **_WITH_ERRORS}
    named[GAIN] = "memory gain"
    kls = {name: f"KL of {site}" for name, site in kl_sites(_quantities(rows)).items()}
    return [*rows[0]["labels"], "seeds", *({**kls, "parameters": "parameters", **named}[n] for n in _quantities(rows))]


def _texts(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> list[str]:
    """A row of the table, one text per column."""
    seeds = f"{row['seeds_finished']}" + ("" if row["seeds_finished"] == row["seeds"] else f" of {row['seeds']}")
    return [*row["labels"].values(), seeds, *(_text(row, name) for name in _quantities(rows))]


def _text(row: Mapping[str, Any], name: str) -> str:
    value, error = row["mean"].get(name), row["standard_error"].get(name)
    if value is None:
        return _NOT_APPLICABLE if row["seeds_finished"] else "?"
    if name in _WITH_ERRORS:
        bound = "≤ " if _is_bound(row, name) else ""
        return f"{bound}{number(value)} ± {number(error)}"
    if name in _SHARES:
        return f"{value:.1%}"
    if kl_sites([name]):
        return number(value)
    if name == GAIN:
        return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,.1f}" if name == SECONDS else f"{value:,.0f}"


def _is_bound(row: Mapping[str, Any], name: str) -> bool:
    """Whether a cost is only known to be no more than this, by its k-hat."""
    if name == COST_WITH_MEMORY:
        return not row["mean"].get(UNTRUSTED_WITH_MEMORY, 0.0) <= TOLERATED_SHARE
    return name == COST and not row["trustworthy"]


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[text.replace("|", "\\|") for text in row] for row in rows]
    widths = [max(len(row[column]) for row in escaped) for column in range(len(rows[0]))]
    lines = [_line([text.ljust(width) for text, width in zip(row, widths, strict=True)]) for row in escaped]
    return [lines[0], _line(["-" * width for width in widths]), *lines[1:]]


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"
