"""Labelled images: what they accept, and how they are cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kpp_pyro.data import ImageSplits, LabelledImages
from kpp_pyro.errors import InputError


def numbered(count: int) -> LabelledImages:
    """Return images whose only pixel is their own number."""
    return LabelledImages(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(count))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), r"images: expected a uint8 .* found float32"),
        (torch.zeros(3, 2, 2).byte(), torch.zeros(3).long(), r"images: .* found uint8 \(3, 2, 2\)"),
        (torch.zeros(3, 1, 2, 2).byte(), torch.zeros(3), "labels: expected an int64 .* found float32"),
        (torch.zeros(3, 1, 2, 2).byte(), torch.zeros(3, 1).long(), r"labels: .* found int64 \(3, 1\)"),
        (torch.zeros(3, 1, 2, 2).byte(), torch.zeros(4).long(), "labels: .* 3 images, found 4"),
        (torch.zeros(3, 1, 2, 2).byte(), torch.zeros(3, device="meta").long(), "labels: .*cpu, found meta"),
    ],
)
def test_wrong_tensors_are_named(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LabelledImages(images, labels)


def test_selecting_and_moving_keep_images_with_their_labels() -> None:
    chosen = numbered(9).select(torch.tensor([7, 2])).to("cpu")
    assert chosen.images.flatten().tolist() == chosen.labels.tolist() == [7, 2]
    assert len(chosen) == 2 and chosen.image_shape == (1, 1, 1)


def test_shuffling_is_a_permutation_that_the_seed_decides() -> None:
    first, again, other = (numbered(50).shuffled(seed) for seed in (1, 1, 2))
    assert first.images.flatten().tolist() == first.labels.tolist()
    assert sorted(first.labels.tolist()) == list(range(50))
    assert torch.equal(first.labels, again.labels) and not torch.equal(first.labels, other.labels)


def test_split_last_keeps_the_order() -> None:
    head, tail = numbered(5).split_last(2)
    assert head.labels.tolist() == [0, 1, 2] and tail.labels.tolist() == [3, 4]


@pytest.mark.parametrize("count", [0, 5, 6])
def test_split_last_leaves_neither_part_empty(count: int) -> None:
    with pytest.raises(InputError, match=f"expected more than the {count} images to be split off, found 5"):
        numbered(5).split_last(count)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_splits_of_other_shapes_are_refused(split: str) -> None:
    splits = {name: numbered(3) for name in ("train", "validation", "test")}
    splits[split] = LabelledImages(torch.zeros(3, 1, 2, 2).byte(), torch.zeros(3).long())
    with pytest.raises(InputError, match=rf"^mine: expected {split} images \(1, 1, 1\) .*, found \(1, 2, 2\)$"):
        ImageSplits("mine", **splits)


def test_grey_is_what_pillow_makes_of_every_colour() -> None:
    colours = torch.cartesian_prod(*[torch.arange(0, 256, 5)] * 3).byte()  # (52^3, 3), black and white among them
    colours = torch.cat([colours, torch.randint(256, (10_000, 3), generator=torch.Generator().manual_seed(0)).byte()])
    images = LabelledImages(colours.view(-1, 3, 1, 1), torch.arange(len(colours)))
    expected = np.asarray(Image.fromarray(colours.numpy()[None]).convert("L"))[0]
    grey = images.grey()
    assert grey.images.dtype == torch.uint8 and grey.image_shape == (1, 1, 1)
    assert np.array_equal(grey.images.flatten().numpy(), expected) and torch.equal(grey.labels, images.labels)
    red, green, blue = colours.double().T
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert (grey.images.flatten() - luma).abs().max() <= 0.5 + 1e-2  # rounded to the nearest level


def test_grey_images_stay_as_they_are_and_other_channels_are_refused() -> None:
    assert numbered(9).grey().images.flatten().tolist() == list(range(9))
    with pytest.raises(InputError, match="images: expected 1 or 3 channels, found 2"):
        LabelledImages(torch.zeros(3, 2, 4, 4).byte(), torch.arange(3)).grey()
