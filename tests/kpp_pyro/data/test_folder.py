"""Folders of pictures: the order and what is in it, whoever decodes it, and what happens to files that are no pictures.

Picture number n is a square of grey value n, so that pixels say which picture they are.
"""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kpp_pyro.data import EpisodeSampler, EpisodeSet, FolderSampler, LabelledImages, decode_pictures, find_pictures
from kpp_pyro.data.decoding import Unreadable
from kpp_pyro.data.folder import PictureFiles
from kpp_pyro.errors import InputError
from tests.experiments.running import ROOT
from tests.waiting import HANGS

SIZE = 4
CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.usefixtures("no_workers_of_others"),
]


def save(path: Path, grey: int, size: tuple[int, int] = (SIZE, SIZE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, grey, dtype=np.uint8)).save(path)


def written(folder: Path, count: int, classes: int = 5) -> PictureFiles:
    """Pictures 0, 1, ... in class folders that take turns; numbers in their order are grey values in `greys`."""
    names = [f"{number % classes}/{number:03d}.png" for number in range(count)]
    for number, name in enumerate(names):
        save(folder / name, number)
    order = sorted(range(count), key=lambda number: names[number])
    return PictureFiles(folder, [names[number] for number in order], torch.tensor([n % classes for n in order]))


def greys(files: PictureFiles) -> Tensor:
    return torch.tensor([int(Path(name).stem) for name in files.names])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> PictureFiles:
    return written(tmp_path_factory.mktemp("pictures"), 50)


def sampler(
    files: PictureFiles,
    seed: int = 3,
    classes_per_episode: int | None = None,
    workers: int = 2,
    binarization: str = "dynamic",
    **share: int,
) -> FolderSampler:
    return FolderSampler(files, SIZE, workers, CPU, 8, binarization, seed, classes_per_episode, **share)


def drawn(sampler: FolderSampler, num_episodes: int) -> Tensor:
    """Grey values (B, T) of the next episodes."""
    pixels = sampler.draw(num_episodes)
    assert pixels.dtype == torch.uint8 and pixels.shape == (num_episodes, 8, 1, SIZE, SIZE)
    assert (pixels == pixels[..., :1, :1]).all()
    return pixels[..., 0, 0, 0].long()


def break_pictures(files: PictureFiles, *numbers: int) -> list[str]:
    paths = [files.folder / name for name in files.names if int(Path(name).stem) in numbers]
    for path in paths:
        path.write_bytes(path.read_bytes()[:30])
    return [str(path) for path in paths]


# --- listing --------------------------------------------------------------------------------------


def test_pictures_are_found_at_any_depth_with_their_class_and_nothing_else_is(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/deep/deeper/1.JPG", "a/3.bmp", "loose.png", "zoo.pgm", ".hidden.png", ".git/4.png"):
        save(tmp_path / "train" / name, 9)
    (tmp_path / "train" / "a" / "notes.txt").write_text("notes")
    for number in range(10):
        save(tmp_path / "train" / "c" / f"{number}.png", 9)
    save(tmp_path / "test" / "c" / "1.png", 9)
    save(tmp_path / "validation" / "a" / "1.png", 9)
    found = find_pictures(tmp_path)
    loose = ["a/3.bmp", "b/2.png", "b/deep/deeper/1.JPG", *(f"c/{number}.png" for number in range(10))]
    assert found.train.names == [*loose, "loose.png", "zoo.pgm"]
    assert found.train.labels.tolist() == [1, 2, 2, *[3] * 10, 0, 0]
    assert (found.validation.names, found.test.names) == (["a/1.png"], ["c/1.png"])
    assert (found.validation.labels.tolist(), found.test.labels.tolist()) == ([1], [3])


def test_folders_that_are_linked_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "1.png", 9)
    save(tmp_path / "test" / "1.png", 9)
    for number in range(10):
        save(tmp_path / "train" / "a" / f"{number}.png", number)
    (tmp_path / "train" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "a" / "loop").symlink_to(tmp_path / "train")
    found = find_pictures(tmp_path)
    assert sorted(found.train.names + found.validation.names) == sorted([*(f"a/{n}.png" for n in range(10)), "b/1.png"])


@pytest.mark.parametrize("backwards", [False, True])
def test_a_folder_goes_before_links_to_it_and_of_links_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    train = tmp_path / "train"
    save(tmp_path / "test" / "1.png", 9)
    save(tmp_path / "elsewhere" / "1.png", 9)
    for number in range(10):
        save(train / "deep" / "cats" / f"{number}.png", number)
    for link, target in {
        "alias": train / "deep/cats",
        "dogs": tmp_path / "elsewhere",
        "b": tmp_path / "elsewhere",
    }.items():
        (train / link).symlink_to(target)
    (train / "deep" / "a").symlink_to(tmp_path / "elsewhere")
    walk = os.walk

    def listed(*arguments: Any, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, files in walk(*arguments, **options):
            folders.sort(reverse=backwards)
            yield place, folders, files

    monkeypatch.setattr(os, "walk", listed)
    found = find_pictures(tmp_path)
    expected = ["b/1.png", *(f"deep/cats/{number}.png" for number in range(10))]
    assert sorted(found.train.names + found.validation.names) == expected


def test_some_of_the_training_pictures_are_held_out_and_always_the_same(tmp_path: Path) -> None:
    written(tmp_path / "train", 50)
    written(tmp_path / "test", 3)
    first, again = find_pictures(tmp_path), find_pictures(tmp_path)
    assert (len(first.train), len(first.validation), len(first.test)) == (40, 10, 3)
    assert sorted(first.train.names + first.validation.names) == sorted(written(tmp_path / "train", 50).names)
    assert first.validation.names == again.validation.names
    classes = [int(name.split("/")[0]) for name in first.train.names]
    assert first.train.labels.tolist() == classes


@pytest.mark.parametrize(
    ("present", "refused"),
    [(("validation",), "train"), (("test",), "train"), (("train",), ""), (("train", "test"), "")],
)
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, present: tuple[str, ...], refused: str) -> None:
    for split in present:
        written(tmp_path / split, 20)
    if not refused:
        find_pictures(tmp_path)
        return
    with pytest.raises(InputError, match=rf"^{tmp_path / refused}: expected a folder of pictures, found none"):
        find_pictures(tmp_path)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("kind", ["file", "link", "loop"])
def test_a_split_that_is_no_folder_is_refused(tmp_path: Path, split: str, kind: str) -> None:
    for other in {"train", "validation", "test"} - {split}:
        written(tmp_path / other, 10)
    path = tmp_path / split
    if kind == "file":
        path.write_text("a file")
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"^{path}: expected a folder of pictures, found a file or a broken link"):
        find_pictures(tmp_path)


def test_paths_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), Path("a\0b"), Path("~nobody")):
        with pytest.raises(InputError, match="expected a folder of pictures, found none; --dataset folder"):
            find_pictures(path)


def test_files_that_are_no_pictures_are_named_and_those_of_the_system_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "train", 10)
    written(tmp_path / "test", 10)
    for name in ("b.heic", "0/a.heic", "c.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / "train" / name).write_text("no picture")
    for number in range(12):
        (tmp_path / "test" / f"{number:02}.mp4").write_text("no picture")
    find_pictures(tmp_path)
    named = ", ".join(f"{number:02}.mp4" for number in range(10))
    assert capsys.readouterr().err.splitlines() == [
        f"note: {tmp_path}/train: skipped 3 files that are no pictures that Pillow reads: 0/a.heic, b.heic, c.txt",
        f"note: {tmp_path}/test: skipped 12 files that are no pictures that Pillow reads: {named} and 2 more",
        f"note: {tmp_path}: 8 training, 2 validation and 10 test images",
        f"note: {tmp_path}: 20 images are 10 different ones that repeat; 10 of these are in more than one split",
    ]


def test_a_folder_without_pictures_or_with_too_few_is_named(tmp_path: Path) -> None:
    written(tmp_path / "train", 9)
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match=rf"^{tmp_path / 'test'}: expected pictures .*\(.*\.tiff.*\), found none$"):
        find_pictures(tmp_path)
    save(tmp_path / "test" / "1.png", 9)
    with pytest.raises(InputError, match=rf"^{tmp_path}: expected 10 different images or more, .* found 9$"):
        find_pictures(tmp_path)


def test_a_split_that_is_too_short_for_an_episode_says_where_it_comes_from(tmp_path: Path) -> None:
    written(tmp_path / "train", 20)
    written(tmp_path / "test", 3)
    expected = {
        "train": "16 images of the training",
        "validation": "4 images of the validation",
        "test": "3 images of the test",
    }
    splits = find_pictures(tmp_path)
    for split, sentence in expected.items():
        files = getattr(splits, split)
        with pytest.raises(InputError) as refused:
            if split == "train":
                FolderSampler(files, SIZE, 1, CPU, 32, "dynamic", 0)
            else:
                EpisodeSet(decode_pictures(files, SIZE, 1), 32)
        assert str(refused.value) == (
            f"--episode-length: expected at most the {sentence} split of {tmp_path}, found 32; "
            "give more pictures or a shorter episode"
        )


@pytest.mark.parametrize("inside", ["", "train"])
def test_pictures_without_a_test_split_are_split_by_a_share(tmp_path: Path, inside: str) -> None:
    names = written(tmp_path / inside, 200).names
    splits = find_pictures(tmp_path, test_share=0.25)
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part) for part in parts] == [120, 30, 50]  # a fifth of the other 150, since a tenth is less than 64
    assert sorted(name for part in parts for name in part.names) == names
    for part in parts:
        assert part.folder == tmp_path / inside
        assert part.labels.tolist() == [int(name.split("/")[0]) for name in part.names]
    assert find_pictures(tmp_path, test_share=0.25).test.names == splits.test.names
    for split in ("train", "test"):
        written(tmp_path / split, 20)
    with pytest.raises(
        InputError, match=rf"^--test-share: expected none, since {tmp_path} has test images, found 0.25$"
    ):
        find_pictures(tmp_path, test_share=0.25)


@pytest.mark.parametrize("name", ["val", "valid", "Test", "training"])
def test_a_split_of_another_name_is_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path, 30)
    save(tmp_path / name / "1.png", 9)
    with pytest.raises(
        InputError, match=rf"^{tmp_path}: expected pictures of a split in .*/, found {name}/; rename it"
    ):
        find_pictures(tmp_path)


def test_copies_of_a_file_are_in_one_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in written(tmp_path, 40).names:
        path = tmp_path / name
        (path.parent / f"{path.stem}_again.png").write_bytes(path.read_bytes())
    splits = find_pictures(tmp_path)
    parts = [splits.train, splits.validation, splits.test]
    held = [{Path(name).stem.removesuffix("_again") for name in part.names} for part in parts]
    assert [2 * len(stems) for stems in held] == [len(part) for part in parts]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]
    note = f"note: {tmp_path}: 80 images are 40 different ones that repeat; each is in one split only"
    assert note in capsys.readouterr().err.splitlines()


def test_dark_strokes_are_inverted_when_they_are_decoded(tmp_path: Path) -> None:
    for split in ("train", "test", "validation"):
        written(tmp_path / split, 10)
    dark, light = find_pictures(tmp_path, dark_on_light=True), find_pictures(tmp_path)
    assert torch.equal(decode_pictures(dark.test, SIZE, 1).images, 255 - decode_pictures(light.test, SIZE, 1).images)
    inverted, plain = (FolderSampler(part.train, SIZE, 1, CPU, 4, "none", 0) for part in (dark, light))
    assert torch.equal(inverted.draw(3), 255 - plain.draw(3))
    inverted.close()
    plain.close()


# --- training -------------------------------------------------------------------------------------


def test_no_picture_comes_again_before_all_that_fill_episodes_have_come(files: PictureFiles) -> None:
    rows = drawn(sampler(files), 12)  # two shuffles of 6 episodes; 2 of the 50 pictures are left over in each
    for shuffle in rows.split(6):
        assert len(shuffle.unique()) == 48
    assert not torch.equal(rows[:6], rows[6:])


@pytest.mark.parametrize("classes_per_episode", [None, 2])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_order_is_that_of_images_in_memory(
    files: PictureFiles, classes_per_episode: int | None, workers: int
) -> None:
    images = LabelledImages(greys(files).byte().view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE), files.labels)
    in_memory = EpisodeSampler(images, 8, "dynamic", 3, classes_per_episode)
    on_disk = sampler(files, 3, classes_per_episode, workers)
    for num_episodes in (2, 5, 1):
        expected = greys(files)[in_memory.draw(num_episodes)]
        assert torch.equal(drawn(on_disk, num_episodes), expected)
    assert torch.equal(on_disk.sample(2), in_memory.sample(2))  # and so are the pixels
    if classes_per_episode:
        assert all(len(set(row)) <= 2 for row in (expected % 5).tolist())


@pytest.mark.parametrize("classes_per_episode", [None, 2])
def test_ten_and_ten_resumed_are_twenty_whatever_was_decoded_ahead(
    files: PictureFiles, tmp_path: Path, classes_per_episode: int | None
) -> None:
    whole, first = (sampler(files, 5, classes_per_episode) for _ in range(2))
    expected = [whole.sample(3) for _ in range(20)]
    found = [first.sample(3) for _ in range(10)]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed = sampler(files, 6, classes_per_episode, workers=1)
    resumed.sample(2)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    found += [resumed.sample(3) for _ in range(10)]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert not torch.equal(sampler(files, 6, classes_per_episode).sample(3), expected[0])


def test_a_state_is_that_of_images_in_memory_and_another_one_is_refused(files: PictureFiles) -> None:
    images = LabelledImages(torch.zeros(50, 1, SIZE, SIZE).byte(), files.labels)
    in_memory, on_disk = EpisodeSampler(images, 8, "dynamic", 3), sampler(files)
    for source in (in_memory, on_disk):
        source.sample(7)
    for name, value in in_memory.state_dict().items():
        assert torch.equal(on_disk.state_dict()[name], value), name
    with pytest.raises(InputError, match="the keys images, now, pixels, shuffle, taken, found epoch"):
        on_disk.load_state_dict({"epoch": torch.zeros(1)})


def test_closing_changes_nothing_and_ends_the_workers(files: PictureFiles) -> None:
    straight, closed = sampler(files), sampler(files)
    for _ in range(3):
        assert torch.equal(straight.sample(2), closed.sample(2))
        assert len(multiprocessing.active_children()) == 4
        closed.close()
        assert len(multiprocessing.active_children()) == 2
    del straight
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("classes_per_episode", [None, 2])
def test_processes_share_out_the_episodes_of_one_order(files: PictureFiles, classes_per_episode: int | None) -> None:
    joint = drawn(sampler(files, 3, classes_per_episode), 12)
    shares = [sampler(files, 3, classes_per_episode, 1, rank=rank, ranks=3) for rank in range(3)]
    steps = [[drawn(share, 2) for share in shares] for _ in range(2)]
    for rank in range(3):
        assert torch.equal(torch.cat([step[rank] for step in steps]), joint[rank::3])
    states = [share.state_dict() for share in shares]
    assert all(torch.equal(states[0][name], states[2][name]) for name in ("shuffle", "taken", "now"))
    shares[2].load_order(states[0])
    whole = sampler(files, 3, classes_per_episode)
    whole.load_order(states[0])
    assert torch.equal(torch.cat([drawn(share, 1) for share in shares]), drawn(whole, 3))


def test_drawing_leaves_the_global_seed_alone_and_starts_no_worker_before(files: PictureFiles) -> None:
    before = torch.get_rng_state()
    source = sampler(files)
    assert not multiprocessing.active_children()
    source.sample(2)
    decode_pictures(files, SIZE, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_pictures_are_scaled_and_cut_to_the_middle(tmp_path: Path) -> None:
    left, middle, right = (np.full((12, width), grey, np.uint8) for width, grey in ((6, 10), (12, 100), (6, 200)))
    Image.fromarray(np.concatenate([left, middle, right], 1)).save(tmp_path / "wide.png")
    Image.new("RGB", (4, 4), (0, 200, 0)).save(tmp_path / "green.png")
    found = decode_pictures(PictureFiles(tmp_path, ["wide.png", "green.png"], torch.zeros(2).long()), SIZE, 1).images
    assert found.shape == (2, 1, SIZE, SIZE)
    assert (found[0, 0, :, 1:3] == 100).all() and (found[0] - 100.0).abs().max() <= 20  # edges see their neighbours
    assert (found[1] == round(0.587 * 200)).all()


def test_a_folder_is_grey_if_all_of_its_pictures_are(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        written(tmp_path / split, 10)
    assert find_pictures(tmp_path).channels() == 1
    break_pictures(PictureFiles(tmp_path / "test", ["0/000.png"], torch.zeros(1).long()), 0)  # which says nothing
    assert find_pictures(tmp_path).channels() == 1
    Image.new("RGB", (SIZE, SIZE), (0, 200, 0)).save(tmp_path / "validation" / "3" / "008.png")
    assert find_pictures(tmp_path).channels() == 3


def test_pictures_in_colour_are_decoded_and_drawn_in_colour(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
    for number, pixels in enumerate(levels):
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    expected = torch.from_numpy(levels).permute(0, 3, 1, 2)  # (20, 3, H, W)
    files = PictureFiles(tmp_path, sorted(path.name for path in tmp_path.iterdir()), torch.zeros(20).long())
    assert torch.equal(decode_pictures(files, SIZE, 1, channels=3).images, expected)
    source = FolderSampler(files, SIZE, 2, CPU, 10, "none", 0, channels=3)
    in_memory = EpisodeSampler(LabelledImages(expected, files.labels), 10, "none", 0)
    assert source.image_shape == in_memory.image_shape == (3, SIZE, SIZE)
    assert torch.equal(source.sample(4), in_memory.sample(4))
    assert torch.equal(source.all_images(), expected)
    source.close()


def test_static_bits_of_every_channel_are_an_images_own(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (51, 128, 230)).save(tmp_path / "a.png")
    Image.new("RGB", (64, 64), (51, 128, 230)).save(tmp_path / "b.png")
    files = PictureFiles(tmp_path, ["a.png", "b.png"], torch.zeros(2).long())
    first, second = decode_pictures(files, 64, 1, "static", 3).images.float() / 255  # (3, 64, 64)
    means = torch.tensor([51, 128, 230]) / 255
    assert ((first.mean((1, 2)) - means).abs() < 4 * 0.5 / 64).all() and not torch.equal(first, second)
    assert torch.equal(decode_pictures(files, 64, 1, "static", 3).images[1].float() / 255, second)


def test_static_bits_are_an_images_own_and_uniform_over_images(files: PictureFiles) -> None:
    first, second = (sampler(files, seed, workers=workers, binarization="static") for seed, workers in ((1, 1), (2, 2)))
    bits: dict[bytes, int] = {}
    count = 0.0
    for source in (first, second):
        for episode in source.sample(25):  # 25 episodes of 8
            for image in episode:
                bits[image.numpy().tobytes()] = 1
                count += image.sum().item()
    assert len(bits) <= 50 and set(first.sample(1).unique().tolist()) <= {0.0, 1.0}
    expected = greys(files).double().mean().item() / 255 * 400 * SIZE**2  # about 615, deviation about 60
    assert abs(count - expected) < 250
    assert first.all_images().shape == (50, 1, SIZE, SIZE)
    assert {image.float().numpy().tobytes() for image in first.all_images()} >= set(bits)


def test_every_training_image_is_there_to_compare_with(files: PictureFiles) -> None:
    expected = (greys(files) > 127).view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE)
    assert torch.equal(sampler(files).all_images(), expected)


@pytest.mark.parametrize(
    ("classes_per_episode", "message"), [(6, "--classes-per-episode: .* 5 classes"), (0, "--classes-per-episode")]
)
def test_impossible_episodes_are_refused(files: PictureFiles, classes_per_episode: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampler(files, 3, classes_per_episode)
    with pytest.raises(InputError, match="--binarize"):
        sampler(files, binarization="grey")
    with pytest.raises(InputError, match="--workers"):
        sampler(files, workers=0)


# --- what cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize("classes_per_episode", [None, 1])
def test_an_unreadable_picture_is_named_once_and_another_one_takes_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes_per_episode: int | None
) -> None:
    files = written(tmp_path, 200)
    intact = drawn(sampler(files, 3, classes_per_episode), 50)
    (broken,) = break_pictures(files, 13)
    source, other = (sampler(files, 3, classes_per_episode, workers) for workers in (2, 1))
    found = drawn(source, 50)
    changed = intact != found
    assert (intact[changed] == 13).all() and changed.sum() == (intact == 13).sum() > 1 and (found != 13).all()
    assert all(len(set(row)) == 8 for row in found.tolist())
    if classes_per_episode:
        assert torch.equal(found % 5, intact % 5)
    (reason,) = source.unreadable.reasons.values()
    assert reason.startswith(f"{broken}: expected a picture")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: the set:"))
    assert broken in line
    parts = []
    for _ in range(5):  # resumed again and again
        parts.append(drawn(other, 10))
        state = other.state_dict()
        other = sampler(files, 4, classes_per_episode, 1)
        other.load_state_dict(state)
    assert torch.equal(torch.cat(parts), found)


def test_where_no_other_picture_is_left_one_stands_in_an_episode_twice(tmp_path: Path) -> None:
    files = written(tmp_path, 120, classes=15)  # eight each
    break_pictures(files, 15)
    source = FolderSampler(files, SIZE, 1, CPU, 8, "dynamic", 0, 1)
    rows = drawn(source, 60)
    of_class = rows[(rows % 15 == 0).all(1)]
    assert len(of_class) and all(len(set(row)) == 7 and 15 not in row for row in of_class.tolist())
    assert all((row % 15 == row[0] % 15).all() for row in rows)


def test_more_than_one_in_a_hundred_is_refused_when_they_are_found(tmp_path: Path) -> None:
    files = written(tmp_path, 199)
    paths = break_pictures(files, 3, 4)
    source = sampler(files)
    sentence = rf"^{tmp_path}: expected at most 1% of the pictures .*found 2 among .* of 199 tried, such as "
    with pytest.raises(InputError, match=sentence) as refused:
        for _ in range(10):
            source.draw(5)
    assert any(path in str(refused.value) for path in paths)


def test_a_folder_of_garbage_is_refused_at_once(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(20_000)]
    garbage = PictureFiles(tmp_path, names, torch.zeros(20_000).long())  # not even there
    source = sampler(garbage, workers=1)
    with pytest.raises(InputError, match=r"found \d+ among \d+ of 20000 tried, such as .*No such file"):
        source.draw(3)


@pytest.mark.parametrize(
    ("tried", "failed", "refused"),
    [(99, 99, False), (100, 6, False), (100, 7, True), (1000, 25, False), (1000, 26, True), (100_000, 1001, True)],
)
def test_few_of_a_part_are_let_pass(tried: int, failed: int, refused: bool, capsys: pytest.CaptureFixture[str]) -> None:
    unreadable = Unreadable(Path("pictures"), 100_000)
    reasons = {number: f"{number}.png: expected a picture" for number in range(failed)}
    if refused:
        with pytest.raises(InputError, match=f"found {failed} among {tried} of 100000 tried, such as 0.png"):
            unreadable.note(torch.arange(tried), reasons)
    else:
        unreadable.note(torch.arange(tried), reasons)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == min(failed, 10) + (failed >= 10) and len(unreadable) == failed


def test_one_is_let_pass_however_few_there_are() -> None:
    unreadable = Unreadable(Path("pictures"), 24)
    unreadable.note(torch.arange(24), {3: "3.png: expected a picture"})
    with pytest.raises(InputError, match="found 2 among 24 of 24 tried"):
        unreadable.note(torch.arange(24), {5: "5.png: expected a picture"})


def test_held_out_pictures_that_cannot_be_read_are_left_out_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path, 200)
    paths = break_pictures(files, 3, 77)
    found = decode_pictures(files, SIZE, 2)
    kept = greys(files) != 3
    kept &= greys(files) != 77
    assert torch.equal(found.images[:, 0, 0, 0].long(), greys(files)[kept])
    assert torch.equal(found.labels, files.labels[kept])
    errors = capsys.readouterr().err
    assert all(path in errors for path in paths)
    assert f"{tmp_path}: 2 of 200 pictures cannot be read and are left out" in errors
    break_pictures(files, 5)
    with pytest.raises(
        InputError, match=rf"^{tmp_path}: expected at most 1% of the pictures to be unreadable, found 3"
    ):
        decode_pictures(files, SIZE, 2)
    assert not multiprocessing.active_children()


# --- the processes --------------------------------------------------------------------------------

PROGRAM = """
import signal, sys, time, torch
from pathlib import Path
from kpp_pyro.data.folder import FolderSampler, PictureFiles
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background of a shell
folder = Path(sys.argv[1])
names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.png")]
files = PictureFiles(folder, names, torch.zeros(len(names)).long())
source = FolderSampler(files, 4, 2, torch.device("cpu"), 8, "dynamic", 0)
source.draw(2)
try:
    print("drawn", flush=True)
    time.sleep(float(sys.argv[2]))
except KeyboardInterrupt:
    source.draw(20)
    print("stopped", flush=True)
    sys.exit(130)
"""


def test_ctrl_c_in_the_terminal_is_for_the_program_alone_which_ends_without_an_error(files: PictureFiles) -> None:
    arguments = [sys.executable, "-c", PROGRAM, str(files.folder), str(HANGS)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "drawn\n"
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=HANGS)
    assert (process.returncode, output) == (130, "stopped\n")
    (note,) = errors.splitlines()  # before the first step, once
    assert note.startswith("note: the set: 16 of 16 images looked at are one flat colour; check the files'")


def test_a_worker_that_is_killed_gets_a_sentence_and_others_go_on(files: PictureFiles) -> None:
    source, other = sampler(files), sampler(files)
    others = multiprocessing.active_children()
    source.draw(2)
    (pid, _) = (child.pid for child in multiprocessing.active_children() if child not in others)
    os.kill(pid, signal.SIGSTOP)  # so that its row is waited for
    killer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    killer.start()
    sentence = rf"^{files.folder}: expected every process .*, found that DataLoader worker .*; fewer --workers take"
    with pytest.raises(InputError, match=sentence):
        source.draw(30)
    killer.join()
    source.close()
    assert source.draw(1).shape == other.draw(1).shape


def test_a_full_dev_shm_does_not_matter(files: PictureFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    expected = drawn(sampler(files), 3)
    monkeypatch.setattr(Tensor, "share_memory_", full)
    assert torch.equal(drawn(sampler(files), 3), expected)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")  # whose processes inherit nothing
    with pytest.raises(
        InputError, match=r"^--workers 2: expected .*No space left on device \(28\)\); try fewer --workers"
    ):
        sampler(files).draw(1)


def test_processes_that_cannot_be_started_get_one_sentence(
    files: PictureFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = BaseProcess.start, list[BaseProcess]()

    def limited(process: BaseProcess) -> None:
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(process)
        start(process)

    monkeypatch.setattr(BaseProcess, "start", limited)
    with pytest.raises(
        InputError, match=r"^--workers 2: .*Resource temporarily unavailable.* \(--shm-size\)$"
    ) as failed:
        sampler(files).draw(1)
    assert started and not started[0].is_alive()
    del failed
    gc.collect()  # torch's iterator, which pytest would find failing


def test_what_is_beside_the_splits_of_a_folder_is_named(tmp_path, capsys):
    for folder in ("train", "cats", ".hidden", "."):
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(20):
            Image.new("L", (20, 20), number).save(tmp_path / folder / f"{number:02}.png")
    (tmp_path / "README.md").write_text("text")
    assert len(find_pictures(tmp_path).train) == 13
    beside = ", ".join(f"{number:02}.png" for number in range(10))
    expected = f"note: {tmp_path}: only train/ is read, not what is beside it: {beside} and 11 more\n"
    assert expected in capsys.readouterr().err
