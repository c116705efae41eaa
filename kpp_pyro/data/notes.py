"""Notes on stderr about a data set, for what a user should know but what is no error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from kpp_pyro.progress import print_above_bars

_NAMED = 10  # skipped files and folders whose names are printed
_SAMPLED = 1000  # images that are looked at: fewer than twice as many
_LEAST_CONTRAST = (
    8  # grey levels, of 255, between the darkest and the brightest pixel of a picture that shows something
)


def note_skipped(folder: object, names: Sequence[str]) -> None:
    """Print how many files of a folder are skipped, and their names, unless there are none."""
    if not names:
        return
    files = "1 file that is no picture" if len(names) == 1 else f"{len(names)} files that are no pictures"
    print_above_bars(f"note: {folder}: skipped {files} that Pillow reads: {_listed(names)}")


def note_beside(folder: object, splits: Sequence[str], names: Sequence[str]) -> None:
    """Print the names of folders and pictures that are not read, since they are beside the splits of a folder."""
    if names:
        read = " and ".join(f"{split}/" for split in splits)
        print_above_bars(f"note: {folder}: only {read} is read, not what is beside it: {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(sorted(names)[:_NAMED])}{more}"


def note_split(source: object, counts: Mapping[str, int]) -> None:
    """Print how many images of a source without splits are in each: "train", "validation" and "test"."""
    train, validation, test = (counts[split] for split in ("train", "validation", "test"))
    print_above_bars(f"note: {source}: {train} training, {validation} validation and {test} test images")


def note_flat(source: object, images: Tensor) -> None:
    """Print a note if more than half of the images show nothing.

    Args:
        source: of the images.
        images: uint8 (N, C, H, W).
    """
    sample = images[:: max(1, len(images) // _SAMPLED)]
    channels = sample.flatten(2)  # (n, C, H W)
    contrast = channels.amax(2).int() - channels.amin(2).int()  # (n, C)
    flat = int((contrast < _LEAST_CONTRAST).all(1).sum())
    if 2 * flat > len(sample):
        print_above_bars(
            f"note: {source}: {flat} of {len(sample)} images looked at are one flat colour; "
            "check the files' transparency and range of values"
        )
