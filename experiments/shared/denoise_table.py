"""The printed table of `denoise.py`: errors of corrupted cues, read by read."""

from __future__ import annotations

from typing import Any

from experiments.shared.arguments import describe_images, number

_SHOWN = (1, 2, 5, 10)  # reads
_SIGNIFICANT = 2.0  # standard errors


def describe_denoising(content: dict[str, Any]) -> str:
    """The content of denoise.json as text."""
    settings, results = content["settings"], content["results"]
    shown = [step for step in _SHOWN if step < settings["steps"]] + [settings["steps"]]
    rows = [(_name(result), result, "recall") for result in results]
    rows += [(f"{name}, hole known", result, "completion") for name, result, _ in rows if result["completion"]]
    _, height, width = settings["image_shape"]
    lines = [
        _heading(settings),
        "",
        _header(f"wrong pixels, of {height * width}", shown),
        *(_row(*row, "wrong_pixels_per_image", shown) for row in rows),
        "",
        _header("-ln p(x | z), nats", shown),
        *(_row(*row, "nats_per_image", shown) for row in rows),
        "",
        f"{'own image is nearest':<27}{'1 read':>11}{_reads(settings['steps']):>11}{'drifted':>11}{'rescued':>11}",
        *(_found(name, result) for name, result, kind in rows if kind == "recall"),
        "",
        *_conclusions(results, settings["steps"]),
    ]
    return "\n".join(lines)


def _heading(settings: dict[str, Any]) -> str:
    return f"{settings['images']:,} {describe_images(settings)}, seed {settings['seed']}. Per image, ± standard error:"


def _name(result: dict[str, Any]) -> str:
    return f"{result['corruption']} {result['strength']:g}"


def _reads(steps: int) -> str:
    return f"{steps} read{'s' * (steps > 1)}"


def _header(what: str, shown: list[int]) -> str:
    return f"{what:<27}{'cue':>8}{'nearest':>9}{'no memory':>11}" + "".join(f"{_reads(step):>17}" for step in shown)


def _row(name: str, result: dict[str, Any], kind: str, quantity: str, shown: list[int]) -> str:
    values, errors = result[kind][quantity], result[kind][f"{quantity}_standard_error"]
    cue = f"{result['cue_wrong_pixels_per_image']:.1f}" if quantity == "wrong_pixels_per_image" else ""
    beside = f"{result['nearest_written'][quantity][0]:>9.2f}{result['memoryless'][quantity][0]:>11.2f}"
    steps = "".join(f"{f'{values[step - 1]:.2f} ± {number(errors[step - 1])}':>17}" for step in shown)
    return f"{name:<27}{cue:>8}{beside}{steps}"


def _found(name: str, result: dict[str, Any]) -> str:
    found, iterating = result["recall"]["found_share"], result["iterating"]
    shares = (found[0], found[-1], iterating["drifted_share"], iterating["rescued_share"])
    return f"{name:<27}" + "".join(f"{share:>11.1%}" for share in shares)


def _conclusions(results: list[dict[str, Any]], steps: int) -> list[str]:
    """Where iterating helps or harms by more than two standard errors, and where it drifts most."""
    lines = [f"{_reads(steps)} against one, by more than {_SIGNIFICANT:g} standard errors:"]
    for quantity, unit in (("wrong_pixels", "wrong pixels"), ("nats", "nats")):
        named: dict[str, list[str]] = {"helps": [], "harms": []}
        for result in results:
            change, error = (
                result["iterating"][f"change_in_{quantity}_{of}"] for of in ("per_image", "standard_error")
            )
            if error is not None and abs(change) > _SIGNIFICANT * error:  # None for a single image
                amount = f"{_name(result)} ({change:+.2f} ± {error:.2f})"
                named["helps" if change < 0 else "harms"].append(amount)
        lines += [f"  {verdict} in {unit}: {', '.join(cases) or 'nowhere'}" for verdict, cases in named.items()]
    worst = max(results, key=lambda result: result["iterating"]["drifted_share"])
    if share := worst["iterating"]["drifted_share"]:
        drift = f"At most {share:.1%} ({_name(worst)}) of the images drift: found by the first read, lost by the last."
    else:
        drift = "No image drifts: each that the first read found is still found by the last."
    return [*lines, drift]
