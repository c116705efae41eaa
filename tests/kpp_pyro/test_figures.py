"""Figures: the images, the memories and the keys' boxes are in them, and in their places."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from kpp_pyro.figures import draw_curves, draw_memory, draw_reconstructions, draw_samples
from kpp_pyro.memory import Addressing, MemoryLayout


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figures" / "figure.png"  # a folder that is not there yet


def constant_images(levels):
    """Images (..., 1, 16, 16), each of one grey level."""
    return torch.as_tensor(levels)[..., None, None, None].expand(*torch.as_tensor(levels).shape, 1, 16, 16)


def place_of(picture, colour):
    """Middle (row, column) of the pixels of a colour, which must be as many as a small image has."""
    shown = (np.abs(picture[..., :3] - np.asarray(colour)[:3]) < 3 / 255).all(-1)
    rows, columns = np.nonzero(shown)
    assert len(rows) > 500, f"{colour} is not in the figure"
    return np.median(rows), np.median(columns)


def places_of_levels(path, levels):
    picture = imread(path)
    return np.array([place_of(picture, np.full(3, level)) for level in levels])


def boxes_on(axis):
    return [patch for patch in axis.patches if isinstance(patch, Rectangle)]


def test_reconstructions_stand_below_their_originals(path):
    originals, reconstructions = [0.05, 0.15, 0.25, 0.35], [0.5, 0.6, 0.7, 0.8]
    draw_reconstructions(constant_images(originals), constant_images(reconstructions).requires_grad_(), path)
    above, below = places_of_levels(path, originals), places_of_levels(path, reconstructions)
    assert np.ptp(above[:, 0]) < 3 and np.ptp(below[:, 0]) < 3  # rows
    assert (below[:, 0] - above[:, 0] > 30).all()
    assert np.abs(above[:, 1] - below[:, 1]).max() < 3 and (np.diff(above[:, 1]) > 30).all()  # columns


def test_more_images_than_columns_go_on_in_further_pairs_of_rows(path):
    originals, reconstructions = [0.05, 0.15, 0.25], [0.5, 0.6, 0.7]
    draw_reconstructions(constant_images(originals), constant_images(reconstructions), path, columns=2)
    rows = places_of_levels(path, [0.05, 0.5, 0.25, 0.7])[:, 0]  # first pair of rows, then the second
    assert (np.diff(rows) > 30).all()
    columns = places_of_levels(path, [0.05, 0.25, 0.15])[:, 1]
    assert abs(columns[0] - columns[1]) < 3 and columns[2] - columns[0] > 30


def test_a_pixel_of_an_image_stays_at_its_place(path):
    image = torch.zeros(1, 1, 16, 16)
    image[..., :8, 8:] = 0.6  # the upper right quarter
    draw_reconstructions(image, constant_images([0.3]), path)
    picture = imread(path)
    (row, column), (middle_row, middle_column) = (place_of(picture, [level] * 3) for level in (0.6, 0.0))
    assert row < middle_row and column > middle_column


def test_samples_of_a_memory_share_a_row(path):
    levels = torch.tensor([[0.05, 0.15, 0.25], [0.35, 0.45, 0.55]])
    draw_samples(constant_images(levels), path)
    places = places_of_levels(path, levels.flatten().tolist()).reshape(2, 3, 2)
    assert np.ptp(places[..., 0], axis=1).max() < 3 and places[1, 0, 0] - places[0, 0, 0] > 30
    assert np.ptp(places[..., 1], axis=0).max() < 3 and (np.diff(places[0, :, 1]) > 30).all()


@pytest.mark.parametrize("channels", [1, 4, 11])
def test_a_memory_shows_its_channels_on_a_scale_that_is_symmetric_about_zero(path, channels):
    values = torch.linspace(-2, 1, channels) if channels > 1 else torch.tensor([1.0])
    limit, shown = values.abs().max().item(), min(channels, 8)
    figure = draw_memory(values[:, None, None].expand(-1, 10, 20), torch.zeros(0, 1, 4), path)
    picture, colours = imread(path), plt.get_cmap("RdBu_r")
    for value in values[:shown].tolist():
        place_of(picture, colours((value + limit) / (2 * limit)))
    panels = [axis for axis in figure.axes if axis.images and axis.get_title().startswith("channel")]
    assert [axis.get_title() for axis in panels] == [f"channel {n + 1} of {channels}" for n in range(shown)]
    for axis, value in zip(panels, values[:shown].tolist(), strict=True):
        assert axis.images[0].get_clim() == (-limit, limit)
        assert (axis.images[0].get_array() == np.float32(value)).all()


def test_an_empty_memory_can_be_drawn(path):
    figure = draw_memory(torch.zeros(1, 10, 20), torch.zeros(0, 1, 4), path)
    assert figure.axes[0].images[0].get_clim() == (-1, 1)
    place_of(imread(path), plt.get_cmap("RdBu_r")(0.5))


def test_boxes_are_drawn_around_the_blocks_that_keys_read(path):
    layout = MemoryLayout(2, 4, 6, 2, 2, reads=2)
    cdf = [[0.5, (n % 3 + 0.5) / 3, (n // 3 + 0.5) / 2] for n in range(6)]
    key = torch.special.ndtri(torch.tensor(cdf)).reshape(3, 2, 3)  # image t reads blocks 2 t and 2 t + 1
    figure = draw_memory(torch.randn(layout.shape), Addressing(layout, "blockwise").boxes(key).requires_grad_(), path)
    for axis in figure.axes[:2]:
        boxes = boxes_on(axis)
        assert len(boxes) == 6
        for n, box in enumerate(boxes):
            left, top = 2 * (n % 3), 2 * (n // 3)
            assert box.get_center() == pytest.approx((left + 1, top + 1), abs=1e-5)
            assert left < box.get_x() < left + 0.3 and top < box.get_y() < top + 0.3
            assert 1.4 < box.get_width() < 2 and 1.4 < box.get_height() < 2
        colours = [box.get_edgecolor() for box in boxes]
        assert colours[0::2] == colours[1::2] and len(set(colours)) == 3  # one for each image


def test_boxes_and_pixels_of_a_memory_share_their_axes(path):
    memory = torch.zeros(1, 4, 6)
    memory[0, 2:, 4:] = 1  # the lower right block
    figure = draw_memory(memory, torch.tensor([[[4.0, 2.0, 2.0, 2.0]]]), path)
    axis, (box,) = figure.axes[0], boxes_on(figure.axes[0])
    assert tuple(axis.images[0].get_extent()) == (0, 6, 4, 0)
    picture = imread(path)
    row, column = place_of(picture, plt.get_cmap("RdBu_r")(1.0))
    middle = axis.transData.transform(box.get_center())
    across, up = figure.transFigure.inverted().transform(middle)  # 0 to 1, from the lower left
    assert column == pytest.approx(across * picture.shape[1], abs=3)
    assert row == pytest.approx((1 - up) * picture.shape[0], abs=3)


def record(step, split, elbo, **kls):
    terms = {f"kl_{name}_nats_per_image": value for name, value in kls.items()}
    return {
        "step": step,
        "split": split,
        "elbo_nats_per_image": elbo,
        "reconstruction_nats_per_image": elbo + sum(kls.values()),
        "memory_gain_nats_per_image": 7.0,
        **terms,
    }


def test_curves_show_the_validation_set_only(path):
    metrics = [
        record(5, "train", -90.0, key=3.0, latent=6.0),
        record(10, "validation", -80.0, key=3.0, latent=5.0),
        record(20, "validation", -40.0, key=3.5, latent=9.0),
        record(20, "test", -41.0, key=3.0, latent=9.0),
    ]
    figure = draw_curves(metrics, path)
    lines = {line.get_label(): line.get_xydata().tolist() for axis in figure.axes for line in axis.lines}
    assert lines == {
        "-ELBO": [[10, 80], [20, 40]],
        "-reconstruction": [[10, 72], [20, 27.5]],
        "KL of key": [[10, 3], [20, 3.5]],
        "KL of latent": [[10, 5], [20, 9]],
        "memory gain": [[10, 7.0], [20, 7.0]],
    }
    assert imread(path).std() > 0


@pytest.mark.parametrize("metrics", [[], [record(0, "validation", -500.0, key=0.0, latent=1.0)]])
def test_curves_of_a_run_that_has_just_begun_can_be_drawn(path, metrics):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(metrics, path)
    assert imread(path).std() > 0


def test_figures_are_closed_and_drawn_without_warnings(path):
    before = plt.get_fignums()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_reconstructions(torch.rand(32, 1, 28, 28), torch.rand(32, 1, 28, 28), path)
        draw_samples(torch.rand(4, 16, 1, 28, 28), path)
        draw_memory(torch.randn(4, 20, 40), torch.rand(32, 1, 4), path)
        draw_curves([record(10, "validation", -80.0, key=3.0)], path)
    assert plt.get_fignums() == before
