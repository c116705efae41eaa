"""The loaders, on small files of the same formats, and what they say when a file is not as it should be."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import MNIST, FashionMNIST

from kpp_pyro.data import DATASETS, load_dataset, mnist, omniglot
from kpp_pyro.errors import InputError

STEMS = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


def idx(values: np.ndarray) -> bytes:
    """Return an IDX file of unsigned bytes."""
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype("u1").tobytes()


def mnist_files() -> dict[str, bytes]:
    """Return 30 training and 6 test images, each filled with its number and labelled with its last digit."""
    train, test = np.arange(30), np.arange(100, 106)
    contents = [
        train[:, None, None] + np.zeros((28, 28)),
        train % 10,
        test[:, None, None] + np.zeros((28, 28)),
        test % 10,
    ]
    return {stem: idx(content) for stem, content in zip(STEMS, contents, strict=True)}


def write_mnist(data_dir: Path, files: dict[str, bytes], folder: str = "MNIST") -> Path:
    """Write files where torchvision would have them; names in .gz are compressed."""
    raw = data_dir / folder / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        (raw / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return raw


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path], tmp_path: Path) -> Path:
    """Hold three images out, and download from an empty folder of this machine, which is returned."""
    address, folder = server
    home = folder / tmp_path.name
    home.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(mnist, "VALIDATION_IMAGES", 3)
    for source in (MNIST, FashionMNIST):
        monkeypatch.setattr(source, "mirrors", [f"{address}{home.name}/"])
    monkeypatch.setattr(omniglot, "URL", f"{address}{home.name}/chardata.mat")
    return home


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"one of .*cifar10, digits, .*omniglot, .*found 'cifar' .did you mean cifar10"
    ):
        load_dataset("cifar", tmp_path)
    with pytest.raises(InputError, match=r"--dataset: expected one of .*, found 'folder'"):
        load_dataset("folder", tmp_path)  # whose pictures stay on disk
    grey, colour = {"digits", "mnist", "fashion_mnist", "omniglot"}, {"cifar10", "svhn", "celeba", "imagenet32"}
    assert set(DATASETS) >= grey | colour | {"celeba32", "mazes32", "folder", "array"}


def test_digits_need_no_file(tmp_path: Path) -> None:
    splits = load_dataset("digits", tmp_path / "absent")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1295, 143, 359]
    assert splits.name == "digits" and splits.train.image_shape == (1, 16, 16)
    assert splits.train.images.max() == 255 and splits.train.images.min() == 0
    assert splits.test.labels.unique().tolist() == list(range(10))
    again = load_dataset("digits", tmp_path)
    assert torch.equal(splits.test.images, again.test.images)


# --- MNIST ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_reads_plain_and_gzipped_files_in_order(tmp_path: Path, name: str, folder: str, suffix: str) -> None:
    raw = write_mnist(tmp_path, {stem + suffix: content for stem, content in mnist_files().items()}, folder)
    before = sorted(raw.iterdir())
    splits = load_dataset(name, tmp_path)
    assert splits.name == name and splits.train.images.shape == (27, 1, 28, 28)
    for part, first, last in ((splits.train, 0, 27), (splits.validation, 27, 30), (splits.test, 100, 106)):
        assert part.images.float().mean((1, 2, 3)).tolist() == list(range(first, last))
        assert part.labels.tolist() == [number % 10 for number in range(first, last)]
    assert sorted(raw.iterdir()) == before  # nothing is unzipped


@pytest.mark.parametrize("missing", STEMS)
def test_mnist_names_the_file_that_is_missing_beside_others(tmp_path: Path, missing: str) -> None:
    write_mnist(tmp_path, {f"{stem}.gz": content for stem, content in mnist_files().items() if stem != missing})
    with pytest.raises(InputError, match=f"MNIST/raw/{missing}: expected it or {missing}.gz"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize(
    ("stem", "content", "message"),
    [
        (STEMS[1], idx(np.zeros(29)), "train-labels-idx1-ubyte: expected 30 labels, .* found 29"),
        (STEMS[2], idx(np.zeros(6)), "t10k-images-idx3-ubyte: expected images"),
        (STEMS[3], idx(np.zeros((6, 28, 28))), "t10k-labels-idx1-ubyte: expected labels"),
        (STEMS[2], idx(np.zeros((6, 20, 20))), r"t10k-images.*: expected images \(1, 28, 28\) as in .*\(1, 20, 20\)"),
        (STEMS[0], b"<html>", "train-images-idx3-ubyte: .*magic number"),
    ],
)
def test_mnist_names_the_file_that_is_wrong(tmp_path: Path, stem: str, content: bytes, message: str) -> None:
    write_mnist(tmp_path, mnist_files() | {stem: content})
    with pytest.raises(InputError, match=message):
        load_dataset("mnist", tmp_path)


def test_mnist_says_when_nothing_would_be_left_to_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "VALIDATION_IMAGES", 30)
    write_mnist(tmp_path, mnist_files())
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte: expected more than the 30 .* found 30"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw"), ("omniglot", "OMNIGLOT")],
)
def test_without_a_network_the_place_and_the_source_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    nowhere = "http://127.0.0.1:1/"  # a port that nobody listens on
    for source in (MNIST, FashionMNIST):
        monkeypatch.setattr(source, "mirrors", [nowhere])
    monkeypatch.setattr(omniglot, "URL", nowhere)
    expected = rf"{folder}: expected .* could not download .*refused.*; download from {nowhere} by hand"
    with pytest.raises(InputError, match=expected) as caught:
        load_dataset(name, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # not even an empty folder


@pytest.mark.parametrize("name", ["mnist", "omniglot"])
def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"expected a folder with .*, found that .*/file is a file"):
        load_dataset(name, tmp_path / "file")


@pytest.mark.parametrize(("name", "place"), [("mnist", "MNIST/raw"), ("omniglot", "OMNIGLOT")])
@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("link", "cannot be opened .No such file"),
        ("loop", "cannot be opened .Too many levels"),
        ("long", "cannot be opened .File name too long"),
        ("file", "is a file"),
    ],
)
def test_a_folder_that_cannot_be_is_refused_before_a_download(
    tmp_path: Path, name: str, place: str, kind: str, found: str
) -> None:
    path = tmp_path / ("x" * 300 if kind == "long" else "data") / place
    if kind != "long":
        path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("a file")
    elif kind != "long":
        path.symlink_to(path if kind == "loop" else "nowhere")
    with pytest.raises(InputError, match=f"{place}: expected a folder with .*, found that .* {found}"):
        load_dataset(name, tmp_path / ("x" * 300 if kind == "long" else "data"))


def test_a_null_character_in_a_path_is_refused(tmp_path: Path) -> None:
    for name in ("mnist", "omniglot"):
        with pytest.raises(InputError, match=r"expected a folder with .*, found that .* null byte"):
            load_dataset(name, tmp_path / "a\0b")


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [("mnist", f"MNIST/raw/{STEMS[0]}", "a readable IDX file"), ("omniglot", "OMNIGLOT/chardata.mat", "a MATLAB file")],
)
@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, path: str, expected: str, kind: str) -> None:
    place = tmp_path / path
    place.parent.mkdir(parents=True)
    make = {"folder": Path.mkdir, "pipe": os.mkfifo, "link": lambda place: place.symlink_to("nowhere")}
    make[kind](place)
    found = {"folder": "a folder", "pipe": "a pipe or a device", "link": r"none \(No such file or directory\)"}
    with pytest.raises(InputError, match=f"{path}: expected {expected}, found {found[kind]}$"):
        load_dataset(name, tmp_path)


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, mirrored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (mirrored / "chardata.mat").write_text("anything")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", full)
    for name in ("mnist", "omniglot"):
        with pytest.raises(InputError, match=r"could not download .*No space left on device.* by hand"):
            load_dataset(name, tmp_path)
    monkeypatch.setattr("kpp_pyro.data.download.TemporaryDirectory", full)
    with pytest.raises(InputError, match=r"could not download .*No space left on device"):
        load_dataset("mnist", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture
def mirrored(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a mirror that has the four files of `mnist_files`."""
    for stem, content in mnist_files().items():
        (home / f"{stem}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(MNIST, "resources", [(f"{stem}.gz", None) for stem in STEMS])  # no MD5 sums
    return home


def test_mnist_is_downloaded_when_no_file_is_there(tmp_path: Path, mirrored: Path) -> None:
    assert len(load_dataset("mnist", tmp_path).train) == 27
    raw = tmp_path / "MNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(f"{stem}.gz" for stem in STEMS)
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]
    for file in mirrored.iterdir():
        file.unlink()
    assert len(load_dataset("mnist", tmp_path).train) == 27  # from the disk this time


def test_a_download_that_stops_half_way_leaves_nothing(tmp_path: Path, mirrored: Path) -> None:
    (mirrored / f"{STEMS[3]}.gz").unlink()
    with pytest.raises(InputError, match=f"could not download .*{STEMS[3]}"):
        load_dataset("mnist", tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- Omniglot -------------------------------------------------------------------------------------


def omniglot_arrays() -> dict[str, np.ndarray]:
    """Return Burda's six arrays: 20 training and 4 test images of a T of light grey, laid out by column."""
    picture = np.zeros((28, 28))
    picture[3, 5:24] = picture[3:25, 14] = 0.8
    columns = picture.reshape(-1, 1, order="F")
    alphabet, character = np.arange(20) % 2, 1 + np.arange(20) // 2 % 3  # 6 pairs
    one_hot = np.eye(3, dtype=np.uint8)
    return {
        "data": np.repeat(columns, 20, 1),
        "target": one_hot[:, alphabet],
        "targetchar": character[None],
        "testdata": np.repeat(columns, 4, 1),
        "testtarget": one_hot[:, [0, 1, 1, 2]],
        "testtargetchar": np.array([[1, 1, 3, 1]]),
    }


def write_omniglot(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays)
    return path


def test_omniglot_characters_stand_upright(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "OMNIGLOT" / "chardata.mat", omniglot_arrays())
    splits = load_dataset("omniglot", tmp_path)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [18, 2, 4]
    for part in (splits.train, splits.validation, splits.test):
        assert part.image_shape == (1, 28, 28) and part.images.unique().tolist() == [0, 204]
        lit = part.images[:, 0] > 0  # (N, rows, columns)
        assert lit[:, 3].sum(1).eq(19).all()  # the bar of the T lies along the top row
        assert lit[:, :, 14].sum(1).eq(22).all()  # and its stem runs down the middle


def test_omniglot_labels_are_characters_numbered_alike_in_training_and_test(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "OMNIGLOT" / "chardata.mat", omniglot_arrays())
    splits = load_dataset("omniglot", tmp_path)
    trained = torch.cat([splits.train.labels, splits.validation.labels])
    assert trained.unique().tolist() == [0, 1, 2, 3, 4, 5]  # sorted by alphabet, then by character
    assert splits.test.labels.tolist() == [0, 3, 5, 6]  # the last is of an alphabet that only the test has
    assert trained.bincount().tolist() == [4, 3, 3, 4, 3, 3]


def test_omniglot_is_downloaded_when_it_is_not_there(tmp_path: Path, home: Path) -> None:
    write_omniglot(home / "chardata.mat", omniglot_arrays())
    assert len(load_dataset("omniglot", tmp_path / "data").train) == 18
    assert [path.name for path in (tmp_path / "data" / "OMNIGLOT").iterdir()] == ["chardata.mat"]


@pytest.mark.parametrize("key", list(omniglot_arrays()))
def test_omniglot_names_a_missing_key_and_those_it_found(tmp_path: Path, key: str) -> None:
    arrays = {name: array for name, array in omniglot_arrays().items() if name != key}
    write_omniglot(tmp_path / "OMNIGLOT" / "chardata.mat", arrays)
    with pytest.raises(InputError, match=f"chardata.mat: expected the key '{key}', found {', '.join(sorted(arrays))}"):
        load_dataset("omniglot", tmp_path)


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("data", np.zeros((783, 20)), r"'data' to be \(784, N\), found float64 \(783, 20\)"),
        ("data", np.zeros((784, 0)), r"'data' to be \(784, N\)"),
        ("data", np.zeros((784, 9)), "'target' .*9.* found .*20"),
        ("data", np.zeros((28, 28, 20)), "'data' to be a matrix"),
        ("data", np.full((784, 20), 255.0), r"'data' to hold numbers in \[0, 1\], found 255"),
        ("testdata", np.full((784, 4), np.nan), "'testdata' to hold numbers"),
        ("testdata", np.array(["a"]), "'testdata' to be a matrix of numbers"),
        ("target", np.ones((3, 20)), "'target' to have one-hot columns"),
        ("testtarget", np.zeros((3, 4)), "'testtarget' to have one-hot columns"),
        ("targetchar", np.full((1, 20), np.nan), "'targetchar' to hold whole numbers, found others"),
        ("testtargetchar", np.ones((1, 5)), r"'testtargetchar' to be \(1, 4\), found \(1, 5\)"),
    ],
)
def test_omniglot_names_the_array_that_is_wrong(tmp_path: Path, key: str, array: np.ndarray, message: str) -> None:
    write_omniglot(tmp_path / "OMNIGLOT" / "chardata.mat", omniglot_arrays() | {key: array})
    with pytest.raises(InputError, match=f"chardata.mat: expected {message}"):
        load_dataset("omniglot", tmp_path)


def test_omniglot_needs_enough_images_to_hold_a_tenth_out(tmp_path: Path) -> None:
    arrays = {key: array[:, :9] for key, array in omniglot_arrays().items()}
    write_omniglot(tmp_path / "OMNIGLOT" / "chardata.mat", arrays)
    with pytest.raises(InputError, match=r"10 images or more in 'data', .* found 9"):
        load_dataset("omniglot", tmp_path)


@pytest.mark.parametrize("format", ["4", "5"])
def test_an_omniglot_header_that_announces_more_than_the_file_holds_is_refused(tmp_path: Path, format: str) -> None:
    path = tmp_path / "OMNIGLOT" / "chardata.mat"
    path.parent.mkdir()
    savemat(path, omniglot_arrays(), format=format)
    claim, content = np.array([784, 10**9], "<i4").tobytes(), path.read_bytes()
    place = content.index(np.array([784, 20], "<i4").tobytes())
    path.write_bytes(content[:place] + claim + content[place + len(claim) :])
    with pytest.raises(InputError, match=r"chardata.mat: expected at most \d+ bytes, .* header that announces 784000"):
        load_dataset("omniglot", tmp_path)


@pytest.mark.parametrize("damage", ["html", "empty", "truncated", "flipped"])
def test_a_corrupt_omniglot_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "OMNIGLOT" / "chardata.mat"
    path.parent.mkdir()
    savemat(path, omniglot_arrays(), do_compression=True)
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "html": b"<html>rate limit exceeded</html>" * 20,
        "empty": b"",
        "truncated": whole[:middle],
        "flipped": whole[:140] + b"\xff" * 40 + whole[180:],
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=r"chardata.mat: expected a MATLAB file, found a corrupt or foreign one"):
        load_dataset("omniglot", tmp_path)
