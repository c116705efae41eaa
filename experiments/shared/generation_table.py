"""The printed table of `generate.py`: coverage, novelty and distances of samples."""

from __future__ import annotations

from typing import Any

from experiments.shared.arguments import describe_images, number

_ROWS = {
    "coverage_share": "written images reproduced (coverage)",
    "coverage_of_other_episode_share": "images of another episode reproduced, by chance",
    "novel_share": "samples near no written image (novelty)",
    "novel_and_far_from_training_share": "samples near no written and no training image",
    "wrong_pixels_to_nearest_written": "wrong pixels to the nearest written image",
    "wrong_pixels_to_nearest_training": "wrong pixels to the nearest training image",
}


def describe_generation(content: dict[str, Any]) -> str:
    """The content of generate.json as text."""
    settings, results = content["settings"], content["results"]
    lines = [_heading(settings), "", f"{'':<50}{'keys from the prior':>19}{_cleaned(settings):>19}"]
    for name, meaning in _ROWS.items():
        cells = [_cell(results[kind], name) for kind in ("prior", "cleaned_up")]
        lines.append(f"{meaning:<50}" + "".join(f"{cell:>19}" for cell in cells))
    lines += [
        "",
        f"Near: at most {content['near_wrong_pixels']:.1f} wrong pixels, half the mean distance of a written image to "
        f"its nearest training image ({content['written_to_nearest_training_wrong_pixels']:.1f}).",
    ]
    return "\n".join(lines)


def _heading(settings: dict[str, Any]) -> str:
    return (
        f"{settings['samples']:,} samples from each of {settings['memories']} memories of {describe_images(settings)}, "
        f"seed {settings['seed']}; ± standard error over memories:"
    )


def _cleaned(settings: dict[str, Any]) -> str:
    return f"cleaned, {settings['clean_up']} read{'s' * (settings['clean_up'] > 1)}"


def _cell(result: dict[str, Any], name: str) -> str:
    value, error = result[name], result[f"{name}_standard_error"]
    scale, unit = (100, " %") if name.endswith("share") else (1, "")
    return f"{scale * value:.1f} ± {number(None if error is None else scale * error, 1)}{unit}"
