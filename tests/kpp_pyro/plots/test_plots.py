"""Figures: the images, the memories and the keys' boxes are in them, and in their places."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from kpp_pyro.memory.blocks import Addressing, MemoryLayout
from kpp_pyro.plots import (
    plot_comparison,
    plot_completion,
    plot_coverage,
    plot_curves,
    plot_denoising,
    plot_denoising_curves,
    plot_episodes_from_prior,
    plot_generation,
    plot_interpolation,
    plot_key_walk,
    plot_memory,
    plot_memory_at_work,
    plot_pareto_k,
    plot_reconstructions,
    plot_samples,
)
from kpp_pyro.plots.figures import plot_image_table


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
    plot_reconstructions(constant_images(originals), constant_images(reconstructions).requires_grad_(), path)
    above, below = places_of_levels(path, originals), places_of_levels(path, reconstructions)
    assert np.ptp(above[:, 0]) < 3 and np.ptp(below[:, 0]) < 3  # rows
    assert (below[:, 0] - above[:, 0] > 30).all()
    assert np.abs(above[:, 1] - below[:, 1]).max() < 3 and (np.diff(above[:, 1]) > 30).all()  # columns


def test_more_images_than_columns_go_on_in_further_pairs_of_rows(path):
    originals, reconstructions = [0.05, 0.15, 0.25], [0.5, 0.6, 0.7]
    plot_reconstructions(constant_images(originals), constant_images(reconstructions), path, columns=2)
    rows = places_of_levels(path, [0.05, 0.5, 0.25, 0.7])[:, 0]  # first pair of rows, then the second
    assert (np.diff(rows) > 30).all()
    columns = places_of_levels(path, [0.05, 0.25, 0.15])[:, 1]
    assert abs(columns[0] - columns[1]) < 3 and columns[2] - columns[0] > 30


def test_a_pixel_of_an_image_stays_at_its_place(path):
    image = torch.zeros(1, 1, 16, 16)
    image[..., :8, 8:] = 0.6  # the upper right quarter
    plot_reconstructions(image, constant_images([0.3]), path)
    picture = imread(path)
    (row, column), (middle_row, middle_column) = (place_of(picture, [level] * 3) for level in (0.6, 0.0))
    assert row < middle_row and column > middle_column


def test_samples_of_a_memory_share_a_row(path):
    levels = torch.tensor([[0.05, 0.15, 0.25], [0.35, 0.45, 0.55]])
    plot_samples(constant_images(levels), path)
    places = places_of_levels(path, levels.flatten().tolist()).reshape(2, 3, 2)
    assert np.ptp(places[..., 0], axis=1).max() < 3 and places[1, 0, 0] - places[0, 0, 0] > 30
    assert np.ptp(places[..., 1], axis=0).max() < 3 and (np.diff(places[0, :, 1]) > 30).all()


@pytest.mark.parametrize("channels", [1, 11])
def test_a_memory_shows_its_channels_on_a_scale_that_is_symmetric_about_zero(path, channels):
    values = torch.linspace(-2, 1, channels) if channels > 1 else torch.tensor([1.0])
    limit, shown = values.abs().max().item(), min(channels, 8)
    figure = plot_memory(values[:, None, None].expand(-1, 10, 20), torch.zeros(0, 1, 4), path)
    picture, colours = imread(path), plt.get_cmap("RdBu_r")
    for value in values[:shown].tolist():
        place_of(picture, colours((value + limit) / (2 * limit)))
    panels = [axis for axis in figure.axes if axis.images and axis.get_title().startswith("channel")]
    assert [axis.get_title() for axis in panels] == [f"channel {n + 1} of {channels}" for n in range(shown)]
    for axis, value in zip(panels, values[:shown].tolist(), strict=True):
        assert axis.images[0].get_clim() == (-limit, limit)
        assert (axis.images[0].get_array() == np.float32(value)).all()


def test_an_empty_memory_can_be_drawn(path):
    figure = plot_memory(torch.zeros(1, 10, 20), torch.zeros(0, 1, 4), path)
    assert figure.axes[0].images[0].get_clim() == (-1, 1)
    place_of(imread(path), plt.get_cmap("RdBu_r")(0.5))


def test_boxes_are_drawn_around_the_blocks_that_keys_read():
    layout = MemoryLayout(2, 4, 6, 2, 2, reads=2)
    cdf = [[0.5, (n % 3 + 0.5) / 3, (n // 3 + 0.5) / 2] for n in range(6)]
    key = torch.special.ndtri(torch.tensor(cdf)).reshape(3, 2, 3)  # image t reads blocks 2 t and 2 t + 1
    figure = plot_memory(torch.randn(layout.shape), Addressing(layout).boxes(key).requires_grad_())
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
    figure = plot_memory(memory, torch.tensor([[[4.0, 2.0, 2.0, 2.0]]]), path)
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
    terms |= {f"kl_{name}_bits_per_dim": value / 500 for name, value in kls.items()}
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
    left_out = [{**line, "left_out_elbo_nats_per_image": line["elbo_nats_per_image"] - 100} for line in metrics]
    figure = plot_curves(left_out, path)
    lines = {line.get_label(): line.get_xydata().tolist() for axis in figure.axes for line in axis.lines}
    assert lines == {
        "-ELBO": [[10, 80], [20, 40]],
        "-ELBO, images left out": [[10, 180], [20, 140]],
        "-reconstruction": [[10, 72], [20, 27.5]],
        "KL of key": [[10, 3], [20, 3.5]],
        "KL of latent": [[10, 5], [20, 9]],
        "memory gain": [[10, 7.0], [20, 7.0]],
    }
    assert imread(path).std() > 0
    assert [line.get_label() for line in plot_curves(metrics).axes[0].lines] == ["-ELBO", "-reconstruction"]


@pytest.mark.parametrize("metrics", [[], [record(0, "validation", -500.0, key=0.0, latent=1.0)]])
def test_curves_of_a_run_that_has_just_begun_can_be_drawn(path, metrics):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_curves(metrics, path)
    assert imread(path).std() > 0


def test_figures_are_closed_and_drawn_without_warnings(path):
    before = plt.get_fignums()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_reconstructions(torch.rand(8, 1, 28, 28), torch.rand(8, 1, 28, 28), path)
        plot_samples(torch.rand(2, 4, 1, 28, 28), path)
        plot_memory(torch.randn(2, 20, 40), torch.rand(8, 1, 4), path)
        plot_curves([record(10, "validation", -80.0, key=3.0)], path)
    assert plt.get_fignums() == before


# Tables of images


def levels_between(number, first=0.05, last=0.95):
    return torch.linspace(first, last, number)


def mosaic(axis, side=16):
    """Levels (rows, columns) of the images of a constant grey in an axis, whose pixels stand where they should."""
    picture = np.asarray(axis.images[0].get_array())  # (H, W, 3)
    background = (picture == picture[0, 0]).all(-1)
    assert (picture == picture[..., :1]).all(-1)[~background].all()  # grey
    shown = np.where(background, np.nan, picture[..., 0])
    height, width = (size // (side + 2) for size in shown.shape)
    tiles = shown.reshape(height, side + 2, width, side + 2).swapaxes(1, 2)  # (rows, columns, side + 2, side + 2)
    inner = tiles[..., 1:-1, 1:-1]
    frame = np.isnan(tiles).sum((-1, -2)) - np.isnan(inner).sum((-1, -2))
    assert (frame == (side + 2) ** 2 - side**2).all()  # the ground shows around every image
    constant = (inner == inner[..., :1, :1]).all((-1, -2)) | np.isnan(inner).all((-1, -2))
    assert constant.all()
    return inner[..., 0, 0]


def assert_shown(axis, rows):
    """Rows of levels are in an axis; a row that is shorter ends in ground."""
    width = max(map(len, rows))
    expected = np.array([[*map(float, row), *[np.nan] * (width - len(row))] for row in rows])
    np.testing.assert_allclose(mosaic(axis), expected, atol=1e-6)


def labels(axis):
    return [tick.get_text() for tick in axis.get_yticklabels()]


def assert_ticks_in_the_middle(positions, number, size=18):
    assert list(positions) == pytest.approx([size * (n + 0.5) - 0.5 for n in range(number)], abs=1)


def test_damaged_images_stand_read_by_read_under_their_titles(path):
    levels = levels_between(18).view(3, 2, 3)  # strengths, images, columns
    cases = {strength: constant_images(of) for strength, of in zip((0.1, 0.25, 1.0), levels, strict=True)}
    titles = ["clean", "cue", "1 read"]
    figure = plot_denoising("salt_and_pepper", cases, titles, path)
    (axis,) = figure.axes
    assert_shown(axis, levels.flatten(0, 1).tolist())
    assert labels(axis) == ["0.1", "", "0.25", "", "1", ""]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["clean", "cue", "1\nread"]  # columns are narrow
    assert_ticks_in_the_middle(axis.get_xticks(), 3)
    assert_ticks_in_the_middle(axis.get_yticks(), 6)
    assert "salt and pepper" in figure.get_suptitle()
    places = places_of_levels(path, levels.flatten().tolist()).reshape(6, 3, 2)  # and so it is in the file
    assert np.ptp(places[..., 0], axis=1).max() < 3 and (np.diff(places[:, 0, 0]) > 30).all()
    assert np.ptp(places[..., 1], axis=0).max() < 3 and (np.diff(places[0, :, 1]) > 30).all()


def test_samples_stand_below_what_was_written_to_their_memory(path):
    written, drawn, cleaned = (levels_between(8, *ends).view(2, 4) for ends in ((0.1, 0.3), (0.4, 0.6), (0.7, 0.9)))
    figure = plot_generation(*map(constant_images, (written[:, :3], drawn, cleaned)), path)
    rows = [row.tolist() for index in range(2) for row in (written[index, :3], drawn[index], cleaned[index])]
    (axis,) = figure.axes
    assert_shown(axis, rows)
    assert labels(axis) == [f"{name}, {index}" for index in (1, 2) for name in ("written", "samples", "cleaned")]
    places = places_of_levels(path, [row[2] for row in rows])
    assert (np.diff(places[:, 0]) > 30).all() and np.ptp(places[:, 1]) < 3


def test_sampled_episodes_stand_below_real_ones(path):
    real, sampled = levels_between(6, 0.1, 0.4).view(2, 3), levels_between(9, 0.6, 0.9).view(3, 3)
    (axis,) = plot_episodes_from_prior(constant_images(real), constant_images(sampled), path).axes
    assert_shown(axis, [*real.tolist(), [], *sampled.tolist()])
    assert labels(axis) == ["real", "real", "", "sampled", "sampled", "sampled"]
    places = places_of_levels(path, [*real[:, 1], *sampled[:, 1]])
    assert (np.diff(places[:, 0]) > 30).all() and np.ptp(places[:, 1]) < 3


def test_what_completes_an_episode_stands_after_a_gap_behind_what_was_given(path):
    (one, *others), (*four, five, six) = levels_between(12).view(2, 6).tolist()
    rows = [(constant_images([one]), constant_images(others)), (constant_images(four), constant_images([five, six]))]
    (axis,) = plot_completion(rows, path).axes
    assert_shown(axis, [[one, np.nan, *others], [*four, np.nan, five, six]])
    assert labels(axis) == ["1 given", "4 given"]
    assert_ticks_in_the_middle(axis.get_yticks(), 2)


def test_walks_through_keys_stand_above_those_through_latents(path):
    levels = levels_between(20).view(2, 2, 5)  # pairs, through, images
    figure = plot_interpolation([tuple(constant_images(pair)) for pair in levels], path)
    assert_shown(figure.axes[0], levels.flatten(0, 1).tolist())
    assert labels(figure.axes[0]) == ["keys", "latents"] * 2
    places = places_of_levels(path, levels[0, 0].tolist())
    assert (np.diff(places[:, 1]) > 30).all() and np.ptp(places[:, 0]) < 3


def test_a_walk_through_key_space_has_a_panel_for_each_scale_and_images_at_their_places(path):
    levels = levels_between(24).view(2, 3, 4)  # scales, rows, columns
    walks = {name: constant_images(of) for name, of in zip(("near", "far"), levels, strict=True)}
    figure = plot_key_walk(walks, path)
    assert [axis.get_title() for axis in figure.axes] == ["near", "far"]
    for axis, expected in zip(figure.axes, levels, strict=True):
        assert_shown(axis, expected.tolist())
    assert "downwards" in figure.axes[0].get_ylabel() and "left to right" in figure.axes[0].get_xlabel()
    places = places_of_levels(path, levels.flatten().tolist()).reshape(2, 3, 4, 2)
    assert (np.diff(places[..., 0], axis=1) > 30).all() and np.ptp(places[..., 0], axis=(0, 2)).max() < 3
    assert (np.diff(places[..., 1], axis=2) > 30).all() and (places[1, ..., 1] > places[0, ..., 1].max()).all()


def at_work(path=None, episode=11, cues=4, samples=8, channels=3):
    """A sheet of a memory at work, and the levels of the images in it."""
    parts = [levels_between(n, *ends) for n, ends in ((episode, (0.0, 0.2)), (cues, (0.3, 0.45)), (cues, (0.5, 0.7)))]
    parts.append(levels_between(samples, 0.75, 1.0))
    memory = torch.linspace(-3, 2, channels)[:, None, None].expand(-1, 4, 8)
    corner = torch.arange(float(episode))[:, None].expand(episode, 2)  # two reads of each image
    boxes = torch.stack([corner % 4 * 2, corner // 4, torch.full_like(corner, 2), torch.full_like(corner, 1)], -1)
    written, *shown = map(constant_images, parts)
    return plot_memory_at_work(written, memory, boxes, *shown, path), parts, boxes


def test_a_memory_at_work_is_shown_in_four_panels():
    figure, (episode, cues, recalled, samples), boxes = at_work()
    first, second, third, fourth = figure.axes
    assert [axis.get_title()[:2] for axis in figure.axes] == ["1.", "2.", "3.", "4."]
    assert "11 images" in first.get_title() and "1 of 3" in second.get_title()
    assert_shown(first, [episode[:8].tolist(), episode[8:].tolist()])
    assert_shown(third, [cues.tolist(), recalled.tolist()])
    assert labels(third) == ["cue", "recalled"]
    assert_shown(fourth, [samples[:4].tolist(), samples[4:].tolist()])
    assert (second.images[0].get_array() == -3).all() and second.images[0].get_clim() == (-3, 3)  # the first channel
    assert tuple(second.images[0].get_extent()) == (0, 8, 4, 0)
    drawn = boxes_on(second)
    assert len(drawn) == 22
    for box, (left, top, width, height) in zip(drawn, boxes.flatten(0, 1).tolist(), strict=True):
        assert box.get_center() == pytest.approx((left + width / 2, top + height / 2))
    assert len({box.get_edgecolor() for box in drawn}) == 11  # one for each image


def test_a_cue_stands_above_what_it_recalls_in_the_file(path):
    _, (_, cues, recalled, samples), _ = at_work(path, episode=8)
    above, below, beside = (places_of_levels(path, part.tolist()) for part in (cues, recalled, samples[:4]))
    assert (below[:, 0] - above[:, 0] > 30).all() and np.abs(above[:, 1] - below[:, 1]).max() < 3
    assert (np.diff(above[:, 1]) > 30).all() and (beside[:, 1] > above[:, 1].max()).all()


def silent(draw):
    """Draw with warnings as errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return draw()


# Curves of recall


def errors_of(wrong, errors=None):
    """Errors, with nats that are wrong pixels and a half."""
    errors = errors or [None] * len(wrong)
    return {
        "wrong_pixels_per_image": wrong,
        "wrong_pixels_per_image_standard_error": errors,
        "nats_per_image": [value + 0.5 for value in wrong],
        "nats_per_image_standard_error": errors,
    }


def case(corruption, strength, cue, recall, memoryless, completion=None):
    return {
        "corruption": corruption,
        "strength": strength,
        "cue_wrong_pixels_per_image": cue,
        "recall": recall,
        "memoryless": memoryless,
        "completion": completion,
        "nearest_written": errors_of([1.0]),
    }


CASES = [
    case("mask", 0.1, 10.0, errors_of([6.0, 5.0], [0.5, 0.25]), errors_of([9.0, 12.0], [1, 2]), errors_of([3.0, 2.0])),
    case("mask", 0.5, 50.0, errors_of([40.0, 39.0], [3.0, 3.5]), errors_of([60.0, 70.0]), errors_of([20.0, 10.0])),
    case("salt_and_pepper", 0.25, 25.0, errors_of([8.0, 7.5], [1.0, 1.5]), errors_of([20.0, 22.0], [1.0, 1.0])),
]


def curves_on(axis):
    """What every curve of an axis shows: its style, colour, values and the ends of its error bars."""
    found = []
    for container in axis.containers:
        line, _, (bars,) = container.lines
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        steps = list(line.get_xdata())
        assert steps == list(range(3 - len(steps), 3))  # the last of two reads, and what comes before
        found.append((line.get_linestyle(), line.get_color(), list(line.get_ydata()), ends))
    return found


def test_errors_are_plotted_read_by_read_with_a_panel_for_each_corruption(path):
    figure = silent(lambda: plot_denoising_curves(CASES, path))
    assert [axis.get_title() for axis in figure.axes] == ["mask", "salt and pepper", "", ""]
    for row, quantity in enumerate(("wrong_pixels_per_image", "nats_per_image")):
        assert_curves(figure.axes[2 * row : 2 * row + 2], quantity, with_cue=row == 0)  # nats of a cue there are none
    for axis, cases in zip(figure.axes[2:], (CASES[:2], CASES[2:]), strict=True):
        names = [text.get_text() for text in axis.get_legend().get_texts()]
        assert names == [f"{expected['strength']:g}" for expected in cases]
    assert imread(path).std() > 0


def assert_curves(panels, quantity, with_cue):
    """Each panel shows a quantity of the cases of its corruption."""
    for axis, cases in zip(panels, (CASES[:2], CASES[2:]), strict=True):
        curves = iter(curves_on(axis))
        colours = []
        for expected in cases:
            kinds = ("recall", "memoryless", "completion") if expected["completion"] else ("recall", "memoryless")
            of_case = [next(curves) for _ in kinds]
            cue = [expected["cue_wrong_pixels_per_image"]] if with_cue else []
            for kind, (style, _, values, ends) in zip(kinds, of_case, strict=True):
                errors = expected[kind]
                assert style == {"recall": "-", "memoryless": "--", "completion": ":"}[kind]
                assert values == [*cue, *errors[quantity]]
                spread = [0.0] * len(cue) + [error or 0.0 for error in errors[f"{quantity}_standard_error"]]
                for value, error, end in zip(values, spread, ends, strict=True):
                    assert end == pytest.approx([value - error, value + error])
            assert len({str(colour) for _, colour, _, _ in of_case}) == 1
            colours.append(str(of_case[0][1]))
        assert next(curves, None) is None and len(set(colours)) == len(cases)
        crosses = [line for line in axis.lines if line.get_marker() == "x"]
        assert [line.get_ydata()[0] for line in crosses] == [case["nearest_written"][quantity][0] for case in cases]
    assert panels[0].get_ylim() == panels[1].get_ylim()


# Curves of generation


def generated(curve, written, training, cleaned_curve=None):
    counts = {
        "samples_by_wrong_pixels_to_nearest_written": written,
        "samples_by_wrong_pixels_to_nearest_training": training,
    }
    results = {kind: {"coverage_by_samples": of, **counts} for kind, of in (("prior", curve), ("cleaned_up", curve))}
    if cleaned_curve is not None:
        results["cleaned_up"] = {
            "coverage_by_samples": cleaned_curve,
            **{name: of[::-1] for name, of in counts.items()},
        }
    return {"results": results, "near_wrong_pixels": 2.5}


def test_coverage_and_distances_are_plotted_as_they_were_found(path):
    written, training = [3, 0, 1, 4], [0, 0, 5, 2, 1]
    content = generated([0.25, 0.25, 0.5], written, training, [0.5, 0.75, 1.0])
    figure = silent(lambda: plot_coverage(content, path))
    left, *histograms = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert lines == {
        "keys of the prior": [[1, 25], [2, 25], [3, 50]],
        "after iterated clean-up": [[1, 50], [2, 75], [3, 100]],
    }
    for axis, counts in zip(histograms, (written, training), strict=True):
        shown = {patch.get_label(): patch.get_data() for patch in axis.patches}
        assert shown["keys of the prior"].values.tolist() == counts
        assert shown["after iterated clean-up"].values.tolist() == counts[::-1]
        (near,) = axis.lines
        assert list(near.get_xdata()) == [2.5, 2.5] and near.get_linestyle() == ":"
    assert "written" in histograms[0].get_title() and "training" in histograms[1].get_title()
    assert "written" in histograms[0].get_xlabel() and "training" in histograms[1].get_xlabel()


def test_bars_stand_over_their_distance_on_the_side_of_the_line_that_it_is_on():
    axis = plot_coverage(generated([0.5], [1, 1, 1, 1], [1, 1, 1, 1])).axes[1]
    edges = axis.patches[0].get_data().edges
    assert ((edges[:-1] + edges[1:]) / 2).tolist() == [0, 1, 2, 3]
    assert (edges[3:] >= axis.lines[0].get_xdata()[0]).all() and edges[2] < axis.lines[0].get_xdata()[0]  # 3 > 2.5 > 2


def test_k_hats_are_counted_above_the_limit_that_is_given_and_those_not_finite_with_them():
    axis = plot_pareto_k([0.2, 0.6, 0.69, None], 0.5).axes[0]
    assert axis.get_title() == "k-hat of the importance weights: 75.0% of 4 images above 0.50\n(1 not finite)"
    assert axis.lines[0].get_xdata() == [0.5, 0.5]


def test_k_hats_that_are_all_unknown_are_a_sentence_in_place_of_a_histogram():
    (axis,) = plot_pareto_k([None] * 7, None).axes
    assert not axis.patches and not axis.lines
    assert axis.texts[0].get_text().startswith("k-hat is not known for any of 7 images")


def test_figures_of_as_little_as_there_can_be_are_drawn_without_warnings(path):
    before, one = plt.get_fignums(), constant_images([0.5])
    silent(lambda: plot_denoising("mask", {0.5: one[None]}, ["clean"], path))
    silent(lambda: plot_denoising_curves([case("poisson", 2.0, 0.0, errors_of([0.0]), errors_of([0.0]))], path))
    silent(lambda: plot_generation(one[None], one[None], one[None], path))
    silent(lambda: plot_episodes_from_prior(one[None], one[None], path))
    silent(lambda: plot_completion([(one, one)], path))
    silent(lambda: plot_interpolation([(one, one)], path))
    silent(lambda: plot_key_walk({"only": one[None]}, path))
    silent(lambda: plot_coverage(generated([0.0], [1], [1]), path))
    silent(lambda: plot_memory_at_work(one, torch.zeros(1, 10, 20), torch.zeros(1, 1, 4), one, one, one, path))
    assert imread(path).std() > 0 and plt.get_fignums() == before


def test_names_of_runs_are_no_formulas_and_incomplete_records_are_left_out(tmp_path):
    record = {"step": 1, "split": "validation", "elbo_nats_per_image": -3.0, "training_seconds": 180.0}
    incomplete = [{**record, "elbo_nats_per_image": None}, {"step": 2, "split": "validation"}]
    runs = {"$\\frac$": [record, *incomplete], "empty": incomplete}
    figure = plot_comparison({"binary": runs}, tmp_path / "a.png")
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == [r"\$\frac\$", "empty"]
    assert [list(line.get_xdata()) for line in lines] == [[3.0], []]
    assert [list(line.get_ydata()) for line in lines] == [[3.0], []]


def test_short_runs_are_compared_in_seconds():
    record = {"step": 1, "split": "validation", "elbo_nats_per_image": -3.0}
    runs = {name: [{**record, "training_seconds": seconds}] for name, seconds in (("a", 0.1), ("b", 119.0))}
    (axis,) = plot_comparison({"binary": runs}).axes
    assert axis.get_xlabel() == "seconds of training"
    assert [list(line.get_xdata()) for line in axis.get_lines()] == [[0.1], [119.0]]


def test_colours_are_shown_as_they_are():
    colours = torch.tensor([[0.9, 0.1, 0.3], [0.0, 1.0, 0.5]])[..., None, None].expand(2, 3, 16, 16)
    (axis,) = plot_image_table([("row", colours)], "title").axes
    shown = np.asarray(axis.images[0].get_array())  # (18, 36, 3)
    for number, colour in enumerate(colours[..., 0, 0].tolist()):
        assert shown[1:17, 18 * number + 1 : 18 * number + 17] == pytest.approx(np.broadcast_to(colour, (16, 16, 3)))
