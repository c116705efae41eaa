"""The printed tables of `generate.py`: coverage, novelty and distances of samples; episodes from the prior."""

from __future__ import annotations

from typing import Any

from experiments.shared.arguments import describe_images, number
from kpp_pyro.distances import SQUARED_ERROR, WRONG_PIXELS, distance_in

_ROWS = {
    "coverage_share": "written images reproduced (coverage)",
    "coverage_of_other_episode_share": "images of another episode reproduced, by chance",
    "novel_share": "samples near no written image (novelty)",
    "novel_and_far_from_training_share": "samples near no written and no training image",
}
_EPISODES = {"sampled": "from the prior", "read_back": "real, read back", "real": "real"}
_DIGITS = {WRONG_PIXELS: 1, SQUARED_ERROR: SQUARED_ERROR.digits}
_NAMES = {WRONG_PIXELS: "wrong pixels", SQUARED_ERROR: "squared error per dimension"}


def describe_generation(content: dict[str, Any]) -> str:
    """The content of generate.json as text."""
    settings, results = content["settings"], content["results"]
    distance = distance_in(content)
    digits = _DIGITS[distance]
    near, training = content[f"near_{distance.name}"], content[f"written_to_nearest_training_{distance.name}"]
    distances = {
        f"{distance.name}_to_nearest_{of}": f"{distance.words} to the nearest {of} image"
        for of in ("written", "training")
    }
    lines = [_heading(settings), "", f"{'':<50}{'keys from the prior':>19}{_cleaned(settings):>19}"]
    for name, meaning in {**_ROWS, **distances}.items():
        cells = [_cell(results[kind], name, digits) for kind in ("prior", "cleaned_up")]
        lines.append(f"{meaning:<50}" + "".join(f"{cell:>19}" for cell in cells))
    lines += [
        "",
        f"Near: at most {near:.{digits}f} {_NAMES[distance]}, half the mean distance of a written image to "
        f"its nearest training image ({training:.{digits}f}).",
    ]
    return "\n".join(lines)


def describe_from_prior(content: dict[str, Any]) -> str:
    """The content of from_prior.json as text."""
    settings, results = content["settings"], content["results"]
    distance = distance_in(results["real"])
    rows = {
        f"{distance.name}_within_episodes": f"{distance.words} between images of one episode",
        f"{distance.name}_between_episodes": f"{distance.words} between images of two episodes",
        "within_to_between_ratio": "their ratio",
        f"nearest_{distance.name}_within_episodes": f"{distance.words} to the nearest of its own episode",
        f"nearest_{distance.name}_between_episodes": f"{distance.words} to the nearest of another episode",
        "nearest_within_to_between_ratio": "their ratio, nearest",
        f"{distance.name}_to_nearest_training": f"{distance.words} to the nearest training image",
    }
    cooled = f", temperature {settings['temperature']:g}" if settings["temperature"] != 1 else ""
    lines = [
        f"{settings['memories']} memories from the prior ({settings['memory_prior']}{cooled}), beside those of "
        f"{describe_images(settings)}, seed {settings['seed']}; ± standard error over episodes:",
        "",
        f"{'':<50}" + "".join(f"{kind:>19}" for kind in _EPISODES.values()),
    ]
    for name, meaning in rows.items():
        digits = 3 if name.endswith("ratio") else _DIGITS[distance]
        cells = (_cell(results[kind], name, digits) for kind in _EPISODES)
        lines.append(f"{meaning:<50}" + "".join(f"{cell:>19}" for cell in cells))
    note = "Ratio 1: the images of an episode have nothing to do with each other. Read back: written, read and decoded."
    return "\n".join([*lines, "", note])


def _heading(settings: dict[str, Any]) -> str:
    return (
        f"{settings['samples']:,} samples from each of {settings['memories']} memories of {describe_images(settings)}, "
        f"seed {settings['seed']}; ± standard error over memories:"
    )


def _cleaned(settings: dict[str, Any]) -> str:
    return f"cleaned, {settings['clean_up']} read{'s' * (settings['clean_up'] > 1)}"


def _cell(result: dict[str, Any], name: str, digits: int) -> str:
    """A share in percent, or a distance with its decimal places."""
    scale, unit, digits = (100, " %", 1) if name.endswith("share") else (1, "", digits)
    found = (result[name], result[f"{name}_standard_error"])
    value, error = (number(None if part is None else scale * part, digits) for part in found)
    return f"{value} ± {error}{unit}"
