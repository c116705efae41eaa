"""The printed table of `denoise.py`: errors of corrupted cues, read by read."""

from __future__ import annotations

from typing import Any

from experiments.shared.arguments import describe_images, number
from inference.metrics.denoising import shown_reads
from kpp_pyro.distances import SQUARED_ERROR, WRONG_PIXELS, Distance, distance_in

_CUE_DIGITS = {"wrong_pixels_per_image": 1}  # where it has fewer decimal places
_SIGNIFICANT = 2.0  # standard errors


def describe_denoising(content: dict[str, Any]) -> str:
    """The content of denoise.json as text."""
    settings, results = content["settings"], content["results"]
    shown = shown_reads(settings["steps"])
    rows = [(_name(result), result, "recall") for result in results]
    rows += [(f"{name}, hole known", result, "completion") for name, result, _ in rows if result["completion"]]
    distance = distance_in(results[0])
    lines = [
        _heading(settings),
        "",
    ]
    for quantity, (meaning, digits) in _quantities(settings, distance).items():
        lines += [_header(meaning, shown), *(_row(*row, quantity, digits, shown) for row in rows), ""]
    lines += [
        f"{'own image is nearest':<27}{'1 read':>11}{_reads(settings['steps']):>11}{'drifted':>11}{'rescued':>11}",
        *(_found(name, result) for name, result, kind in rows if kind == "recall"),
        "",
        *_conclusions(results, settings["steps"], distance),
    ]
    return "\n".join(lines)


def _quantities(settings: dict[str, Any], distance: Distance) -> dict[str, tuple[str, int]]:
    """Meaning and decimal places of the quantities after each read, by their name in the report."""
    _, height, width = settings["image_shape"]
    errors = {
        WRONG_PIXELS: {"wrong_pixels_per_image": (f"wrong pixels, of {height * width}", WRONG_PIXELS.digits)},
        SQUARED_ERROR: {
            "psnr_db": ("PSNR of the mean error, dB", 2),
            "squared_error_per_dim": ("squared error per dim", SQUARED_ERROR.digits),
        },
    }
    return {**errors[distance], "nats_per_image": ("-ln p(x | z), nats", 2 if distance.binary else 1)}


def _heading(settings: dict[str, Any]) -> str:
    return f"{settings['images']:,} {describe_images(settings)}, seed {settings['seed']}. Per image, ± standard error:"


def _name(result: dict[str, Any]) -> str:
    return f"{result['corruption']} {result['strength']:g}"


def _reads(steps: int) -> str:
    return f"{steps} read{'s' * (steps > 1)}"


def _header(what: str, shown: list[int]) -> str:
    return f"{what:<27}{'cue':>8}{'nearest':>9}{'no memory':>11}" + "".join(f"{_reads(step):>17}" for step in shown)


def _row(name: str, result: dict[str, Any], kind: str, quantity: str, digits: int, shown: list[int]) -> str:
    values, errors = result[kind][quantity], result[kind][f"{quantity}_standard_error"]
    cue = _value(result[f"cue_{quantity}"], _CUE_DIGITS.get(quantity, digits)) if f"cue_{quantity}" in result else ""
    nearest, memoryless = (_value(result[of][quantity][0], digits) for of in ("nearest_written", "memoryless"))
    beside = f" {nearest:>8} {memoryless:>10}"
    cells = (f"{_value(values[step - 1], digits)} ± {number(errors[step - 1], digits)}" for step in shown)
    steps = "".join(f" {cell:>16}" for cell in cells)
    return f"{name:<27}{cue:>8}{beside}{steps}"


def _value(value: float | None, digits: int) -> str:
    """A mean as text; only a PSNR can be None, which is that of no error."""
    return "exact" if value is None else number(value, digits)


def _found(name: str, result: dict[str, Any]) -> str:
    found, iterating = result["recall"]["found_share"], result["iterating"]
    shares = (found[0], found[-1], iterating["drifted_share"], iterating["rescued_share"])
    return f"{name:<27}" + "".join(f"{share:>11.1%}" for share in shares)


def _conclusions(results: list[dict[str, Any]], steps: int, distance: Distance) -> list[str]:
    """Where iterating helps or harms by more than two standard errors, and where it drifts most."""
    lines = [f"{_reads(steps)} against one, by more than {_SIGNIFICANT:g} standard errors:"]
    quantities = ((distance.name, distance.per, distance.words, distance.digits), ("nats", "per_image", "nats", 2))
    for quantity, per, unit, digits in quantities:
        named: dict[str, list[str]] = {"helps": [], "harms": []}
        for result in results:
            change, error = (result["iterating"][f"change_in_{quantity}_{of}"] for of in (per, "standard_error"))
            if error is not None and abs(change) > _SIGNIFICANT * error:  # None for a single image
                amount = f"{_name(result)} ({change:+.{digits}f} ± {error:.{digits}f})"
                named["helps" if change < 0 else "harms"].append(amount)
        lines += [f"  {verdict} in {unit}: {', '.join(cases) or 'nowhere'}" for verdict, cases in named.items()]
    worst = max(results, key=lambda result: result["iterating"]["drifted_share"])
    if share := worst["iterating"]["drifted_share"]:
        drift = f"At most {share:.1%} ({_name(worst)}) of the images drift: found by the first read, lost by the last."
    else:
        drift = "No image drifts: each that the first read found is still found by the last."
    return [*lines, drift]
