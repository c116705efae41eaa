"""The printed table of `benchmark.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.shared.speed.memories import OPERATIONS

Row = tuple[str, str, str]  # quantity, median, and a note


def describe_benchmark(content: Mapping[str, Any]) -> str:
    """The content of benchmark.json as a table."""
    rows = [("measured", "median", "quartiles, or details"), *_rows(content)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{what:<{widths[0]}}  {number:>{widths[1]}}  {note}".rstrip() for what, number, note in rows)


def _rows(content: Mapping[str, Any]) -> Iterator[Row]:
    for name, step in content.get("steps", {}).items():
        yield from _step_rows(name, step)
    for name, parts in content.get("parts", {}).items():
        whole = parts["whole_milliseconds"]
        for part, milliseconds in parts["milliseconds"].items():
            yield f"{name}: {part}", f"{milliseconds:.2f} ms", f"{milliseconds / whole:.0%} of a step of {whole:.2f} ms"
    for line in content.get("growth", ()):
        last = line["points"][-1]
        note = f"{last['milliseconds']:,.1f} ms and {last['peak_mebibytes']:,.0f} MiB at {last['size']:,}"
        powers = f"{line['milliseconds_power']:.2f}, {line['peak_mebibytes_power']:.2f}"
        yield f"exponents of time and memory in {line['axis']} ({line['write']})", powers, note
    for memory in content.get("memories", ()):
        yield from _memory_rows(memory)
    if "input" in content:
        yield from _input_rows(content["input"])


def _step_rows(name: str, step: Mapping[str, Any]) -> Iterator[Row]:
    for ratio, values in step["ratios"].items():
        bar = step.get("bars", {}).get(ratio)
        goal = "" if bar is None else f"; goal: at most {bar}, {'met' if values['median'] <= bar else 'MISSED'}"
        yield f"{name}: {ratio}", f"{values['median']:.3f}", _quartiles(values) + goal
    for way, values in step["milliseconds"].items():
        rate = f"{step['images_per_second'][way]:,} images a second"
        yield f"{name}: step, {way}", f"{values['median']:.2f} ms", f"{_quartiles(values)}; {rate}"


def _memory_rows(memory: Mapping[str, Any]) -> Iterator[Row]:
    for kind in OPERATIONS:
        times = {point["size"]: f"{point[f'{kind}_milliseconds']:.3f}" for point in memory["points"]}
        *smaller, largest = times
        before = ", ".join(f"{times[size]} at {size}" for size in smaller)
        note = f"an episode of {largest}; {before}; exponent {memory[f'{kind}_milliseconds_power']:.2f}"
        yield f"{kind}, {memory['memory']}", f"{times[largest]} ms", note


def _input_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    size, workers = found["picture_side"], found["workers"]
    what = f"JPEGs of {size}x{size}, {workers} decoding process{'es' if workers > 1 else ''}"
    for ratio, values in found["ratios"].items():
        yield f"step on {ratio}", f"{values['median']:.3f}", f"{_quartiles(values)}; {what}"
    for source, values in found["waited_milliseconds_per_step"].items():
        yield f"{source}: waiting for data", f"{values['median']:.2f} ms", f"{_quartiles(values)} a step"


def _quartiles(values: Mapping[str, float]) -> str:
    return f"{values['quartile_1']:.3f} to {values['quartile_3']:.3f}"
