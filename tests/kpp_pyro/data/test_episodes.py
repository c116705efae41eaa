"""Episodes: what they hold, what is random about them, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kpp_pyro.data import EpisodeSampler, EpisodeSet, LabelledImages, augment, first_images
from kpp_pyro.errors import InputError

BITS = 10
WEIGHTS = 2 ** torch.arange(BITS)


def numbered(labels: list[int] | Tensor) -> LabelledImages:
    """Return black and white images (N, 1, 1, 10) that spell their own number in binary."""
    labels = torch.as_tensor(labels)
    spelled = (torch.arange(len(labels))[:, None] // WEIGHTS) % 2  # (N, 10)
    return LabelledImages((spelled * 255).byte().view(-1, 1, 1, BITS), labels)


def numbers(episodes: Tensor) -> Tensor:
    """Return the number (B, T) that each image spells."""
    return (episodes.flatten(2).long() * WEIGHTS).sum(-1)


def grey(count: int) -> LabelledImages:
    """Return images (N, 1, 6, 6) of middle grey, in three classes."""
    return LabelledImages(torch.full((count, 1, 6, 6), 128).byte(), torch.arange(count) % 3)


def dealt(episodes: EpisodeSet, batch: int = 3) -> tuple[Tensor, Tensor]:
    """Return the numbers (E, T) and what counts of them (E, T)."""
    parts = [(numbers(images), counted) for images, counted in episodes.batches(batch)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_episodes", [1, 6, 7, 25])
def test_training_episodes_hold_distinct_images(num_episodes: int) -> None:
    images = numbered([0] * 50)
    sampler = EpisodeSampler(images, 8, "threshold", seed=0)
    episodes = sampler.sample(num_episodes)
    assert episodes.shape == (num_episodes, 8, 1, 1, BITS) and episodes.dtype == torch.float32
    assert (sampler.order.num_images, sampler.image_shape) == (50, (1, 1, BITS))
    assert all(len(set(row)) == 8 and max(row) < 50 for row in numbers(episodes).tolist())


@pytest.mark.parametrize("classes_per_episode", [None, 3])
def test_every_image_is_drawn_equally_often_in_every_place(classes_per_episode: int | None) -> None:
    sampler = EpisodeSampler(numbered(torch.arange(40) % 5), 4, "threshold", 0, classes_per_episode)
    drawn = numbers(sampler.sample(8000))  # (8000, 4)
    for place in drawn.T:
        often = place.bincount(minlength=40).double()  # binomial, mean 200, deviation 14
        assert (often - 200).abs().max() < 5 * 14


def test_an_episode_is_drawn_from_exactly_as_many_classes_as_asked() -> None:
    labels = torch.tensor([3, 3, 3, 7, 7, 7, 7, 20, 20, 20, 41, 41, 41, 41])  # labels with gaps, sizes that differ
    sampler = EpisodeSampler(numbered(labels), 6, "threshold", 0, classes_per_episode=2)
    seen = labels[numbers(sampler.sample(300))]  # (300, 6)
    pairs = {tuple(sorted(set(row))) for row in seen.tolist()}
    assert pairs == {(3, 7), (3, 20), (3, 41), (7, 20), (7, 41), (20, 41)}


@pytest.mark.parametrize("classes_per_episode", [None, 2])
@pytest.mark.parametrize("augment", [False, True])
def test_ten_and_ten_resumed_are_twenty(tmp_path: Path, classes_per_episode: int | None, augment: bool) -> None:
    def sampler(seed: int) -> EpisodeSampler:
        return EpisodeSampler(grey(30), 4, "dynamic", seed, classes_per_episode, augment)

    whole, first = sampler(5), sampler(5)
    expected = [whole.sample(3) for _ in range(20)]
    drawn = [first.sample(3) for _ in range(10)]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed = sampler(6)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    drawn += [resumed.sample(3) for _ in range(10)]
    assert all(torch.equal(a, b) for a, b in zip(expected, drawn, strict=True))
    assert not torch.equal(sampler(6).sample(3), expected[0])


def test_drawing_leaves_the_global_seed_alone() -> None:
    before = torch.get_rng_state()
    EpisodeSampler(grey(30), 4, "dynamic", 0, 2, augment=True).sample(2)
    list(EpisodeSet(grey(30), 4, "dynamic").batches(2))
    assert torch.equal(before, torch.get_rng_state())


def test_static_images_never_change_and_dynamic_ones_do() -> None:
    images = grey(1)
    static, dynamic = (EpisodeSampler(images, 1, how, 0).sample(20) for how in ("static", "dynamic"))
    assert len(static.unique(dim=0)) == 1 and len(dynamic.unique(dim=0)) == 20
    for batch, _ in EpisodeSet(images, 1, "static").batches(1):
        assert torch.equal(batch[0], static[0])  # the same bits for training and for scoring


@pytest.mark.parametrize("classes_per_episode", [None, 1])
def test_the_images_of_an_episode_of_few_classes_move_together(classes_per_episode: int | None) -> None:
    images = torch.zeros(8, 1, 15, 15).byte()
    images[..., 7, 7] = 255
    sampler = EpisodeSampler(LabelledImages(images, torch.arange(8) // 4), 4, "none", 0, classes_per_episode, True)
    place = torch.arange(15.0) - 7
    shift = (sampler.sample(50).sum(-2) @ place).view(50, 4)  # to the right, of the centre of mass
    assert (shift.std(1).mean() < 0.5) == (classes_per_episode == 1)


def test_augmentation_moves_the_grey_image_before_it_is_binarized() -> None:
    white = torch.zeros(1, 1, 9, 9).byte()
    white[..., 3:6, 3:6] = 255
    sampler = EpisodeSampler(LabelledImages(white, torch.zeros(1).long()), 1, "threshold", 0, augment=True)
    episodes = sampler.sample(50)
    assert set(episodes.unique().tolist()) == {0.0, 1.0} and len(episodes.unique(dim=0)) > 10
    assert (episodes.sum((-1, -2)) - 9).abs().max() <= 4  # about as much ink as before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode_length": 0}, "--episode-length: .* found 0"),
        ({"episode_length": 8}, "--episode-length: .* 7 images .* found 8"),
        ({"classes_per_episode": 0}, "--classes-per-episode: .* found 0"),
        ({"classes_per_episode": 4}, "--classes-per-episode: .* 3 classes .* found 4"),
        ({"classes_per_episode": 2, "episode_length": 4}, "--episode-length: expected at most 3, .* found 4"),
        (
            {"binarization": "grey"},
            "--binarize: expected one of dynamic, static, threshold, none, found 'grey'",
        ),
    ],
)
def test_impossible_training_episodes_are_refused(changes: dict, message: str) -> None:
    request = {"episode_length": 2, "binarization": "static", "seed": 0} | changes
    with pytest.raises(InputError, match=message):
        EpisodeSampler(numbered([0, 1, 1, 2, 2, 2, 2]), **request)


def test_the_largest_possible_training_episode_is_drawn() -> None:
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    of_all = EpisodeSampler(numbered(labels), 7, "static", 0).sample(3)
    assert of_all.shape == (3, 7, 1, 1, BITS)
    assert all(sorted(row) == list(range(7)) for row in numbers(of_all).tolist())
    of_two_classes = EpisodeSampler(numbered(labels), 3, "static", 0, classes_per_episode=2).sample(20)
    assert of_two_classes.shape == (20, 3, 1, 1, BITS)
    assert all(len(set(row)) == 3 for row in numbers(of_two_classes).tolist())
    assert all(len(row.unique()) <= 2 for row in labels[numbers(of_two_classes)])


def test_bad_states_and_counts_are_named() -> None:
    sampler = EpisodeSampler(grey(5), 2, "static", 0)
    with pytest.raises(InputError, match="the keys images, now, pixels, shuffle, taken, found epoch"):
        sampler.load_state_dict({"epoch": torch.zeros(1)})
    with pytest.raises(
        InputError, match=r"pixels: expected the state of a random generator, found torch.uint8 \(17,\)"
    ):
        sampler.load_state_dict({**sampler.state_dict(), "pixels": torch.zeros(17, dtype=torch.uint8)})
    for taken in (-1, 3, 10**9):
        with pytest.raises(InputError, match=f"expected 0 to 2 taken of the current shuffle, found {taken}$"):
            sampler.load_state_dict({**sampler.state_dict(), "taken": torch.tensor(taken)})
    with pytest.raises(InputError, match="num_episodes: expected at least 1, found 0"):
        sampler.sample(0)


def test_a_state_of_another_kind_of_device_goes_on_with_new_pixels() -> None:
    sampler = EpisodeSampler(grey(5), 2, "dynamic", 0)
    begun = sampler.sample(3)
    of_cuda = {**sampler.state_dict(), "pixels": torch.arange(16, dtype=torch.uint8)}
    drawn = []
    for _ in range(2):
        other = EpisodeSampler(grey(5), 2, "dynamic", 0)
        other.load_state_dict(of_cuda)
        drawn.append(other.sample(3))
    assert torch.equal(*drawn) and not torch.equal(drawn[0], begun)
    assert torch.equal(other.order.state_dict()["now"], _advanced(sampler).order.state_dict()["now"])


def _advanced(sampler: EpisodeSampler) -> EpisodeSampler:
    sampler.draw(3)
    return sampler


# --- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes_per_episode", [None, 1, 3, 7])
@pytest.mark.parametrize("count", [64, 61, 8])
def test_every_image_counts_exactly_once(count: int, classes_per_episode: int | None) -> None:
    episodes = EpisodeSet(numbered(torch.arange(count) % 7), 8, "threshold", 0, classes_per_episode)
    index, counted = dealt(episodes)
    assert sorted(index[counted].tolist()) == list(range(count))
    assert len(index) == len(episodes) and episodes.num_images == count


def test_a_short_last_episode_is_filled_with_other_images_that_do_not_count() -> None:
    index, counted = dealt(EpisodeSet(numbered([0] * 21), 8, "threshold"))
    assert counted.sum(1).tolist() == [8, 8, 5] and counted[2].tolist() == [True] * 5 + [False] * 3
    assert all(len(set(row)) == 8 for row in index.tolist())


def test_evaluation_episodes_keep_to_their_classes_filling_included() -> None:
    labels = torch.tensor([5] * 11 + [6] * 11 + [8] * 11 + [9] * 11 + [30] * 2)
    index, counted = dealt(EpisodeSet(numbered(labels), 8, "threshold", seed=1, classes_per_episode=2))
    seen = [tuple(sorted(set(row))) for row in labels[index].tolist()]
    assert len(set(seen)) == 3 and sum(len(group) for group in set(seen)) == 5  # 2 + 2 + 1 classes
    assert all(len(set(row)) == 8 or group == (30,) for row, group in zip(index.tolist(), seen, strict=True))
    assert not counted.all()


def test_classes_that_are_too_small_are_filled_with_images_of_others_and_none_stands_twice() -> None:
    index, counted = dealt(EpisodeSet(numbered([0, 0, 1, 1, 1]), 5, "threshold", classes_per_episode=1))
    assert sorted(counted.sum(1).tolist()) == [2, 3]
    own = [row[of_class].tolist() for row, of_class in zip(index, counted, strict=True)]
    assert sorted(map(sorted, own)) == [[0, 1], [2, 3, 4]]
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in index.tolist())


def test_episodes_of_all_classes_come_early() -> None:
    labels = torch.arange(800) % 4
    index, _ = dealt(EpisodeSet(numbered(labels), 10, "threshold", classes_per_episode=1, max_episodes=30))
    assert labels[index[:, 0]].unique().tolist() == [0, 1, 2, 3]


def test_the_seed_decides_the_order_and_max_episodes_takes_its_beginning() -> None:
    images = numbered([0] * 30)
    first, again, other = (dealt(EpisodeSet(images, 4, "threshold", seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    quick = EpisodeSet(images, 4, "threshold", 1, max_episodes=3)
    assert torch.equal(dealt(quick)[0], first[:3]) and len(quick) == 3 and quick.num_images == 12


def test_every_pass_gives_the_same_bits_whatever_the_batch() -> None:
    episodes = EpisodeSet(grey(23), 4, "dynamic", seed=3)
    passes = [torch.cat([images for images, _ in episodes.batches(batch)]) for batch in (2, 2, 5, 100)]
    assert all(torch.equal(passes[0], other) for other in passes[1:])
    assert len(passes[0].flatten(0, 1).unique(dim=0)) == 24  # six episodes of four, each image drawn by itself


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode_length": 0}, "--episode-length: .* found 0"),
        ({"episode_length": 8}, "--episode-length: .* 7 images .* found 8"),
        ({"classes_per_episode": 0}, "--classes-per-episode: .* found 0"),
        ({"classes_per_episode": 4}, "--classes-per-episode: .* 3 classes .* found 4"),
        ({"binarization": "grey"}, "--binarize: .* found 'grey'"),
        ({"max_episodes": 0}, "max_episodes: .* found 0"),
    ],
)
def test_impossible_evaluation_episodes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        EpisodeSet(numbered([0, 1, 1, 2, 2, 2, 2]), **({"episode_length": 2} | changes))


@pytest.mark.parametrize(("number", "found"), [(1, 1), (3, 3), (6, 6), (7, 6), (50, 6)])
def test_whole_episodes_are_the_first_ones_without_filling(number: int, found: int) -> None:
    episodes = EpisodeSet(numbered(torch.arange(52) % 4), 8, "threshold", 0, classes_per_episode=2)  # 26 of each pair
    every, counted = dealt(episodes)
    assert (~counted.all(1)).sum() == 2
    whole = episodes.whole(number)
    assert whole.dtype == torch.float32 and whole.shape == (found, 8, 1, 1, BITS)
    assert torch.equal(numbers(whole), every[counted.all(1)][:found])


def test_there_may_be_no_whole_episode() -> None:
    episodes = EpisodeSet(numbered([0, 1, 2, 3, 4, 5]), 4, classes_per_episode=2)
    assert episodes.whole(3).shape == (0, 4, 1, 1, BITS)


def test_a_batch_of_no_episodes_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="num_episodes: expected at least 1, found 0"):
        EpisodeSet(grey(5), 2).batches(0)


# --- the first images -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
@pytest.mark.parametrize("limit", [1, 3, 4, 5, 11, 12, 13, 21, 22, 23, 1000])
def test_the_first_images_count_and_no_later_ones(limit: int, batch: int) -> None:
    episodes = EpisodeSet(numbered([0] * 22), 4, "threshold", seed=2)  # six, of which the last is filled up with two
    every, counted = dealt(episodes)
    wanted = every[counted][:limit].tolist()
    parts = list(first_images(episodes.batches(batch), limit))
    assert [number for images, kept in parts for number in numbers(images)[kept].tolist()] == wanted
    place = 0
    for images, kept in parts:
        assert torch.equal(numbers(images), every[place : place + len(images)]) and images.shape[:2] == kept.shape
        assert kept.any() and len(images) <= batch
        needed = int(kept.any(1).sum())
        assert len(images) == max(needed, min(2, batch, 6 - place))  # with another one beside it, where there is one
        place += batch


def test_the_first_images_leave_out_the_filling() -> None:
    images = numbered(torch.tensor([0] * 5 + [1] * 3))
    episodes = EpisodeSet(images, 4, "threshold", 1, classes_per_episode=1)  # three, with short ones among them
    every, counted = dealt(episodes)
    for limit in range(1, 9):
        parts = list(first_images(episodes.batches(2), limit))
        chosen = [number for episode, kept in parts for number in numbers(episode)[kept].tolist()]
        assert chosen == every[counted][:limit].tolist()
        assert len(set(chosen)) == limit


# --- intensities ----------------------------------------------------------------------------------


def photographs(count: int, labels: Tensor | None = None) -> LabelledImages:
    """Return colour images (N, 3, 6, 5) of random levels."""
    images = torch.randint(256, (count, 3, 6, 5), generator=torch.Generator().manual_seed(0)).byte()
    return LabelledImages(images, torch.zeros(count, dtype=torch.int64) if labels is None else labels)


def test_without_binarization_every_level_arrives_untouched() -> None:
    every = LabelledImages(torch.arange(256).byte().view(1, 1, 16, 16), torch.zeros(1, dtype=torch.int64))
    drawn = EpisodeSampler(every, 1, "none", 0).sample(1)
    held_out, _ = next(EpisodeSet(every, 1, "none").batches(1))
    for episode in (drawn, held_out):
        assert episode.dtype == torch.float32 and torch.equal(episode.flatten(), torch.arange(256).float() / 255)


def test_without_binarization_nothing_but_the_order_is_random() -> None:
    images = photographs(30)
    sampler, binary = (EpisodeSampler(images, 4, how, seed=7) for how in ("none", "dynamic"))
    before = sampler.state_dict()["pixels"]
    drawn, same = sampler.draw(5), binary.draw(5)
    assert torch.equal(drawn, same)  # in the order of binary episodes
    assert torch.equal(sampler.render(drawn), images.images[drawn] / 255)
    assert torch.equal(sampler.render(drawn), sampler.render(drawn))
    assert torch.equal(sampler.state_dict()["pixels"], before)
    passes = [torch.cat([episode for episode, _ in EpisodeSet(images, 4, "none", 7).batches(n)]) for n in (1, 3)]
    assert torch.equal(*passes)


@pytest.mark.parametrize("black_and_white", [False, True])
def test_moved_intensities_are_whole_levels_near_those_of_the_moved_image(black_and_white: bool) -> None:
    images = photographs(8)
    if black_and_white:
        images = LabelledImages((images.images > 127).byte() * 255, images.labels)
    sampler, again = (EpisodeSampler(images, 8, "none", 3, augment=True) for _ in range(2))
    drawn = sampler.draw(4)
    moved = sampler.render(drawn)
    levels = moved * 255
    assert (levels - levels.round()).abs().max() < 1e-4 and moved.min() >= 0 and moved.max() <= 1
    exact = augment(images.images[drawn].flatten(0, 1) / 255, again.generators[0]).view_as(moved)
    assert (moved - exact).abs().max() <= 0.5 / 255 + 1e-6
    assert len(levels.round().unique()) > 100  # not thresholded, even if the images are black and white


def test_each_channel_is_cut_at_one_half() -> None:
    images = photographs(12)
    cut = EpisodeSampler(images, 4, "dynamic", seed=0).all_images()
    assert cut.dtype == torch.bool and torch.equal(cut, images.images / 255 > 0.5)


def test_levels_are_returned_as_they_are() -> None:
    images = photographs(12)
    levels = EpisodeSampler(images, 4, "none", seed=0, augment=True).all_images()
    assert levels.dtype == torch.uint8 and torch.equal(levels, images.images)


@pytest.mark.parametrize("binarization", ["dynamic", "static", "threshold"])
def test_colours_can_be_binarized_channel_by_channel(binarization: str) -> None:
    images = photographs(400)
    episodes = torch.cat([episode for episode, _ in EpisodeSet(images, 8, binarization).batches(10)])
    assert set(episodes.unique().tolist()) == {0.0, 1.0} and episodes.shape == (50, 8, 3, 6, 5)
    expected = (images.images / 255).mean((0, 2, 3))  # of each channel; the deviation of a mean of 12,000 bits is 0.005
    assert (episodes.mean((0, 1, 3, 4)) - expected).abs().max() < 0.03


def test_an_episode_of_one_maze_has_no_frame_of_another() -> None:
    mazes = torch.arange(250 * 40) // 40
    numbers = torch.arange(250 * 40)
    frames = torch.stack([numbers // 256, numbers % 256], 1).byte().view(-1, 2, 1, 1)  # that spell their number
    images = LabelledImages(frames, mazes)
    index, counted = [], []
    episodes = EpisodeSet(images, 32, "none", seed=5, classes_per_episode=1)
    for batch, counts in episodes.batches(64):
        index.append((batch * 255).round().long()[..., 0, 0] @ torch.tensor([256, 1]))
        counted.append(counts)
    found, counts = torch.cat(index), torch.cat(counted)  # (E, T)
    assert len(episodes) == 500 and episodes.num_images == 10_000  # of each maze 32 frames, and 8 with padding
    assert (mazes[found] == mazes[found[:, :1]]).all()
    assert torch.equal(found[counts].sort().values, numbers)  # every frame counts once
    assert counts.sum(1).bincount().nonzero().flatten().tolist() == [8, 32]
    assert (found.sort(1).values.diff(dim=1) > 0).all()  # nothing twice in an episode
    drawn = EpisodeSampler(images, 32, "none", 5, classes_per_episode=1).draw(2000)
    assert (mazes[drawn] == mazes[drawn[:, :1]]).all() and (drawn.sort(1).values.diff(dim=1) > 0).all()
    assert len(mazes[drawn[:, 0]].unique()) == 250  # one is missed with a probability of 0.08


# --- every image once -----------------------------------------------------------------------------


@pytest.mark.parametrize("binarization", ["dynamic", "threshold"])
def test_all_images_are_cut_at_one_half_in_their_order(binarization: str) -> None:
    pixels = torch.arange(256).byte().view(32, 1, 2, 4)
    labels = torch.arange(32) % 3
    cut = EpisodeSampler(LabelledImages(pixels, labels), 4, binarization, seed=0).all_images()
    assert cut.dtype == torch.bool and cut.shape == (32, 1, 2, 4)
    assert cut.flatten().tolist() == [value / 255 > 0.5 for value in range(256)]


def test_images_that_were_binarized_once_are_returned_as_they_are_drawn() -> None:
    pixels = torch.randint(256, (30, 1, 6, 6)).byte()
    sampler = EpisodeSampler(LabelledImages(pixels, torch.zeros(30, dtype=torch.long)), 30, "static", seed=0)
    (episode,) = sampler.sample(1)
    drawn = {tuple(image.flatten().tolist()) for image in episode.bool()}
    assert {tuple(image.flatten().tolist()) for image in sampler.all_images()} == drawn and len(drawn) == 30
    before = sampler.state_dict()["pixels"]
    sampler.all_images()
    assert torch.equal(sampler.state_dict()["pixels"], before)  # nothing is drawn for it


@pytest.mark.parametrize("classes_per_episode", [None, 2])
def test_the_place_of_an_image_says_how_many_of_its_class_come_before_it(classes_per_episode: int | None) -> None:
    labels = torch.arange(61) % 5
    episodes = EpisodeSet(numbered(labels), 8, "none", classes_per_episode=classes_per_episode)
    images, counted = dealt(episodes)
    expected = [
        (episode, position, sum(labels[row[before]] == labels[row[position]] for before in range(position)))
        for episode, row in enumerate(images.tolist())
        for position in range(8)
        if counted[episode, position]
    ]
    places = episodes.places()
    found = list(zip(*(places[name].tolist() for name in ("episode", "position", "of_class_before")), strict=True))
    assert found == [tuple(int(number) for number in place) for place in expected]
