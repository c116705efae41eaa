"""The data sets in colour, on small files of the published formats, and what is said of files that are damaged."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from kpp_pyro.data import ImageSplits, LabelledImages, cifar10, imagenet32, load_dataset, mazes32, svhn
from kpp_pyro.errors import InputError

SPLITS = ("train", "validation", "test")


def coded(numbers: np.ndarray, side: int = 32) -> np.ndarray:
    """Images (N, 3, H, W) that say their number n: red is n, green grows downwards, blue to the right."""
    images = np.zeros((len(numbers), 3, side, side), np.uint8)
    images[:, 0] = numbers[:, None, None]
    images[:, 1] = np.arange(side)[:, None]
    images[:, 2] = np.arange(side) + 100
    return images


def numbers_of(part: LabelledImages) -> list[int]:
    """The numbers that `coded` images say, whose channels, rows and columns are where they belong."""
    found = part.images[:, 0, 0, 0].numpy()
    assert part.images.dtype == torch.uint8 and np.array_equal(part.images.numpy(), coded(found))
    return found.tolist()


def sizes(splits: ImageSplits) -> list[int]:
    return [len(getattr(splits, split)) for split in SPLITS]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of few images."""
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", 4)
    monkeypatch.setattr(cifar10, "VALIDATION_IMAGES", 3)
    monkeypatch.setattr(svhn, "VALIDATION_IMAGES", 4)
    monkeypatch.setattr(imagenet32, "VALIDATION_IMAGES", 5)
    monkeypatch.setattr(mazes32, "VALIDATION_MAZES", 2)


# --- CIFAR-10 -------------------------------------------------------------------------------------


def cifar_files() -> dict[str, bytes]:
    """The six binary files: images 0 to 19 for training, 20 to 23 for the test, labelled by their last digit."""
    records = [bytes([number % 10]) + coded(np.array([number])).tobytes() for number in range(24)]
    names = [*(f"data_batch_{batch}.bin" for batch in range(1, 6)), "test_batch.bin"]
    return {name: b"".join(records[4 * place : 4 * place + 4]) for place, name in enumerate(names)}


def write_cifar(data_dir: Path, files: dict[str, bytes]) -> Path:
    folder = data_dir / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_cifar10_is_read_in_its_order_and_the_last_images_validate(tmp_path: Path) -> None:
    write_cifar(tmp_path, cifar_files())
    splits = load_dataset("cifar10", tmp_path)
    for split, numbers in zip(SPLITS, (range(17), range(17, 20), range(20, 24)), strict=True):
        part = getattr(splits, split)
        assert numbers_of(part) == list(numbers) and part.labels.tolist() == [number % 10 for number in numbers]


@pytest.mark.parametrize("change", [-1, 1, -3073])
def test_a_cifar10_file_of_another_length_is_named(tmp_path: Path, change: int) -> None:
    files = cifar_files()
    files["data_batch_3.bin"] = (files["data_batch_3.bin"] + b"\0")[: 4 * 3073 + change]
    write_cifar(tmp_path, files)
    expected = f"bin/data_batch_3.bin: expected 12292 bytes, 4 images, found {12292 + change}$"
    with pytest.raises(InputError, match=expected):
        load_dataset("cifar10", tmp_path)


def test_a_cifar10_file_that_is_missing_or_foreign_is_named(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path, cifar_files() | {"test_batch.bin": bytes([10]) * (4 * 3073)})
    with pytest.raises(InputError, match=r"test_batch.bin: expected labels from 0 to 9, found 10"):
        load_dataset("cifar10", tmp_path)
    (folder / "data_batch_2.bin").unlink()  # with the others there, nothing is downloaded
    with pytest.raises(InputError, match=r"data_batch_2.bin: expected 4 images of CIFAR-10 .*, found none .No such"):
        load_dataset("cifar10", tmp_path)


def tar_of(files: dict[str, bytes]) -> bytes:
    """A .tar.gz with the files in their folder, among members that nobody asked for."""
    evil = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")  # a link of the same name, before the file
    evil.type, evil.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            tar.addfile(evil)
            for name, content in {"../outside.bin": b"evil", **files}.items():
                member = tarfile.TarInfo(name if name.startswith("..") else f"cifar-10-batches-bin/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return packed.getvalue()


def serve(content: bytes, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, md5: str | None = None) -> None:
    """Offer an archive on this machine, with its MD5 sum or another one."""
    address, folder = server
    (folder / "cifar.tar.gz").write_bytes(content)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cifar10, "URL", f"{address}cifar.tar.gz")
    monkeypatch.setattr(cifar10, "MD5", md5 or hashlib.md5(content).hexdigest())


def test_cifar10_is_downloaded_and_nothing_else_of_the_archive(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(tar_of(cifar_files()), server, monkeypatch)
    assert sizes(load_dataset("cifar10", tmp_path / "data")) == [17, 3, 4]
    found = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()]
    assert sorted(found) == sorted(f"data/cifar-10-batches-bin/{name}" for name in cifar_files())
    (server[1] / "cifar.tar.gz").unlink()
    assert sizes(load_dataset("cifar10", tmp_path / "data")) == [17, 3, 4]  # from the disk this time


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("md5", "the archive has another MD5 sum than 0123"),
        ("text", "the archive cannot be unpacked"),
        ("half", "the archive cannot be unpacked"),
        ("missing", "the archive lacks cifar-10-batches-bin/test_batch.bin"),
        ("offline", "refused"),
    ],
)
def test_a_failed_download_of_cifar10_leaves_nothing_and_says_what_to_do(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, damage: str, found: str
) -> None:
    whole = tar_of(cifar_files())
    content = {"text": b"no archive", "half": whole[: len(whole) // 2]}.get(damage, whole)
    if damage == "missing":
        content = tar_of({name: file for name, file in cifar_files().items() if name != "test_batch.bin"})
    serve(content, server, monkeypatch, "0123" if damage == "md5" else None)
    if damage == "offline":
        monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:1/")  # a port that nobody listens on
    expected = rf"cifar-10-batches-bin: expected data_batch_1.bin, .*could not download .*{found}.* by hand and put"
    with pytest.raises(InputError, match=expected) as caught:
        load_dataset("cifar10", tmp_path / "data")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


# --- SVHN -----------------------------------------------------------------------------------------


def svhn_arrays(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a file, in which 10 stands for the digit 0."""
    return {"X": coded(numbers).transpose(2, 3, 1, 0), "y": ((numbers + 9) % 10 + 1).astype(np.uint8)[:, None]}


def write_svhn(data_dir: Path, **changes: np.ndarray) -> None:
    (data_dir / "SVHN").mkdir(parents=True)
    savemat(data_dir / "SVHN" / "train_32x32.mat", svhn_arrays(np.arange(25)) | changes)
    savemat(data_dir / "SVHN" / "test_32x32.mat", svhn_arrays(np.arange(25, 30)))


def test_svhn_is_read_in_its_order_and_the_last_images_validate(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    splits = load_dataset("svhn", tmp_path)
    for split, numbers in zip(SPLITS, (range(21), range(21, 25), range(25, 30)), strict=True):
        part = getattr(splits, split)
        assert numbers_of(part) == list(numbers) and part.labels.tolist() == [number % 10 for number in numbers]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"X": np.zeros((32, 32, 3, 25))}, r"'X' to be uint8 \(32, 32, 3, N\), found float64"),
        ({"X": np.zeros((25, 32, 32, 3), np.uint8)}, r"'X' to be uint8 \(32, 32, 3, N\)"),
        ({"y": np.ones((24, 1), np.uint8)}, r"'y' to be whole numbers \(25, 1\), found uint8 \(24, 1\)"),
        ({"y": np.full((25, 1), 11, np.uint8)}, "labels from 1 to 10 in 'y'"),
    ],
)
def test_an_svhn_file_that_is_wrong_is_named(tmp_path: Path, changes: dict, found: str) -> None:
    write_svhn(tmp_path, **changes)
    with pytest.raises(InputError, match=f"SVHN/train_32x32.mat: expected {found}"):
        load_dataset("svhn", tmp_path)


def test_svhn_is_downloaded_if_its_sums_are_right(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    write_svhn(folder)
    sums = {name: hashlib.md5((folder / "SVHN" / name).read_bytes()).hexdigest() for name in svhn.MD5}
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(svhn, "URL", f"{address}SVHN")
    with pytest.raises(InputError, match=r"SVHN: expected train_32x32.mat, .*could not download .*corrupted.* by hand"):
        load_dataset("svhn", tmp_path)  # the sums of the published files
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(svhn, "MD5", sums)
    assert sizes(load_dataset("svhn", tmp_path)) == [21, 4, 5]


# --- ImageNet 32x32 -------------------------------------------------------------------------------


def write_imagenet(data_dir: Path, **changes: np.ndarray | None) -> Path:
    """Ten training files of 1, 2, ..., 10 images and a validation file of 3; labels are numbers plus one."""
    folder = data_dir / "imagenet32"
    folder.mkdir(parents=True)
    ends = np.cumsum([*range(1, 11), 3])
    names = [*(f"train_data_batch_{batch}" for batch in range(1, 11)), "val_data"]
    for name, numbers in zip(names, np.split(np.arange(ends[-1]), ends[:-1]), strict=True):
        arrays = {"data": coded(numbers).reshape(len(numbers), -1), "labels": numbers + 1}
        given = arrays | changes if name == "train_data_batch_4" else arrays
        np.savez_compressed(folder / f"{name}.npz", **{key: value for key, value in given.items() if value is not None})
    return folder


def test_imagenet32_is_read_in_its_order_and_the_last_images_validate(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    splits = load_dataset("imagenet32", tmp_path)
    for split, numbers in zip(SPLITS, (range(50), range(50, 55), range(55, 58)), strict=True):
        part = getattr(splits, split)
        assert numbers_of(part) == list(numbers) and part.labels.tolist() == [number + 1 for number in numbers]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"labels": None}, r"the array 'labels', found data$"),
        ({"data": None}, r"the array 'data', found labels$"),
        ({"data": np.zeros((4, 3072), np.float32)}, r"'data' to be uint8 \(4, 3072\), .* found float32 \(4, 3072\)"),
        ({"data": np.zeros((3, 3072), np.uint8)}, r"'data' to be uint8 \(4, 3072\), .* found uint8 \(3, 3072\)"),
        ({"data": np.zeros((4, 3, 32, 32), np.uint8)}, r"'data' to be uint8 \(4, 3072\)"),
        ({"labels": np.zeros((4, 1), int)}, r"'labels' to be whole numbers \(N,\), found int64 \(4, 1\)"),
        ({"labels": np.zeros(4)}, r"'labels' to be whole numbers"),
    ],
)
def test_an_imagenet32_file_that_is_wrong_is_named(tmp_path: Path, changes: dict, found: str) -> None:
    write_imagenet(tmp_path, **changes)
    with pytest.raises(InputError, match=f"imagenet32/train_data_batch_4.npz: expected {found}"):
        load_dataset("imagenet32", tmp_path)


class Trap:
    """What must never be unpickled."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("sprung"),)


def test_an_array_of_python_objects_is_refused_and_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_imagenet(tmp_path, labels=np.array([Trap()] * 4))
    with pytest.raises(InputError, match=r"batch_4.npz: expected 'labels' to be an array of numbers, found Python obj"):
        load_dataset("imagenet32", tmp_path)
    assert not Path("sprung").exists()
    Path("imagenet32/train_data_batch_1.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"batch_1.npz: expected an .npz file, found a corrupt or foreign one"):
        load_dataset("imagenet32", tmp_path)
    assert not Path("sprung").exists()


@pytest.mark.parametrize("damage", ["half", "empty", "flipped", "npy"])
def test_a_damaged_npz_file_is_named(tmp_path: Path, damage: str) -> None:
    path = write_imagenet(tmp_path) / "val_data.npz"
    whole = bytearray(path.read_bytes())
    flipped = bytes(whole[:200] + bytes(byte ^ 0xFF for byte in whole[200:300]) + whole[300:])
    with io.BytesIO() as file:
        np.save(file, np.zeros(3))
        npy = file.getvalue()
    path.write_bytes({"half": bytes(whole[: len(whole) // 2]), "empty": b"", "flipped": flipped, "npy": npy}[damage])
    with pytest.raises(InputError, match=r"val_data.npz: expected .*, found") as caught:
        load_dataset("imagenet32", tmp_path)
    assert "\n" not in str(caught.value)


def test_an_array_that_would_unpack_to_more_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_imagenet(tmp_path)
    monkeypatch.setattr("kpp_pyro.files.reading.MOST_UNPACKED_BYTES", 3 * 3072)
    with pytest.raises(InputError, match=r"batch_3.npz: expected at most 9216 bytes, .* announces 9344"):
        load_dataset("imagenet32", tmp_path)


# --- the stand-ins --------------------------------------------------------------------------------


def maze_arrays() -> dict[str, np.ndarray]:
    """Five training mazes and two others, three frames of each, in the layout of unpack.py."""
    frames = coded(np.arange(21)).transpose(0, 2, 3, 1)
    mazes = np.repeat(np.arange(7), 3).astype(np.int16)
    pose = np.zeros((15, 3), np.float32)
    return {
        "train": frames[:15],
        "test": frames[15:],
        "train_labels": mazes[:15],
        "test_labels": mazes[15:],
        "train_pose": pose,
    }


def test_whole_mazes_validate(tmp_path: Path) -> None:
    arrays = maze_arrays()
    order = np.random.default_rng(0).permutation(15)  # the frames of a maze need not stand together
    np.savez(tmp_path / "mazes32.npz", **arrays | {part: arrays[part][order] for part in ("train", "train_labels")})
    splits = load_dataset("mazes32", tmp_path)
    for split, mazes in zip(SPLITS, ([0, 1, 2], [3, 4], [5, 6]), strict=True):
        part = getattr(splits, split)
        assert part.labels.unique().tolist() == mazes and len(part) == 3 * len(mazes)
        assert [number // 3 for number in numbers_of(part)] == part.labels.tolist()
    assert numbers_of(splits.train) == [number for number in order.tolist() if number < 9]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"test_labels": np.full(6, 4)}, "mazes in 'train' or in 'test', found 4 in both"),
        ({"train_labels": np.full(15, 4)}, "more than the 2 mazes held out for validation in 'train', found 1"),
        ({"train_labels": np.zeros(14, int)}, r"'train_labels' to be whole numbers \(15,\), found int64 \(14,\)"),
        ({"train": np.zeros((15, 3, 32, 32), np.uint8)}, r"'train' to be uint8 \(N, 32, 32, 3\), found uint8 \(15, 3"),
        ({"test": np.zeros((0, 32, 32, 3), np.uint8)}, r"'test' to be uint8 \(N, 32, 32, 3\)"),
    ],
)
def test_arrays_of_mazes_that_are_wrong_are_named(tmp_path: Path, changes: dict, found: str) -> None:
    np.savez(tmp_path / "mazes32.npz", **maze_arrays() | changes)
    with pytest.raises(InputError, match=f"mazes32.npz: expected {found}"):
        load_dataset("mazes32", tmp_path)


def test_the_last_tenth_of_the_faces_validates(tmp_path: Path) -> None:
    frames = coded(np.arange(25)).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "celeba32.npz", train=frames[:20], test=frames[20:])
    splits = load_dataset("celeba32", tmp_path)
    numbers = [numbers_of(getattr(splits, split)) for split in SPLITS]
    assert numbers == [list(range(18)), [18, 19], list(range(20, 25))]
    with pytest.raises(InputError, match=r"mazes32.npz: expected an .npz file, found none .No such file"):
        load_dataset("mazes32", tmp_path)


# --- CelebA ---------------------------------------------------------------------------------------


def write_celeba(data_dir: Path, partition: str | None = None, count: int = 6) -> Path:
    """Pictures of the official size: the middle 148 x 148 is a pattern of 4 x 4 colours, and the rim is white."""
    pictures = data_dir / "celeba" / "img_align_celeba"
    pictures.mkdir(parents=True)
    for number in range(count):
        rim = np.full((218, 178, 3), 255, np.uint8)
        rim[35:183, 15:163] = np.kron(pattern(number), np.ones((37, 37, 1), np.uint8))
        Image.fromarray(rim).save(pictures / f"{number:06d}.jpg", quality=100, subsampling=0)
    lines = [f"{number:06d}.jpg {number % 3}\n" for number in range(count)]
    (data_dir / "celeba" / "list_eval_partition.txt").write_text("".join(lines) if partition is None else partition)
    return pictures


def pattern(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [32, 64])
def test_the_middle_of_the_faces_is_kept(tmp_path: Path, size: int) -> None:
    write_celeba(tmp_path)
    splits = load_dataset("celeba", tmp_path, size)
    for first, split in enumerate(SPLITS):
        images = getattr(splits, split).images
        assert images.shape == (2, 3, size, size)
        for image, number in zip(images.float(), (first, first + 3), strict=True):
            expected = torch.from_numpy(pattern(number).repeat(size // 4, 0).repeat(size // 4, 1)).permute(2, 0, 1)
            inside = torch.arange(size) % (size // 4) != 0  # without the pixels that see two colours
            inside &= torch.arange(size) % (size // 4) != size // 4 - 1
            assert (image - expected)[:, inside][:, :, inside].abs().max() <= 4  # what JPEG loses
    assert load_dataset("celeba", tmp_path).train.image_shape == (3, 32, 32)


def test_a_size_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--image-size: expected one of 32, 64 with --dataset celeba, found 28"):
        load_dataset("celeba", tmp_path, 28)
    with pytest.raises(InputError, match="--image-size: expected none with --dataset cifar10, found 32"):
        load_dataset("cifar10", tmp_path, 32)


@pytest.mark.parametrize(
    ("partition", "found"),
    [
        ("000000.jpg 0\n000001.jpg 3\n", "and 0, 1 or 2 in line 2, found '000001.jpg 3'"),
        ("000000.jpg\n", "in line 1, found '000000.jpg'"),
        ("../../secret.jpg 0\n", "in line 1, found '../../secret.jpg 0'"),
        ("000000.jpg 0\n\n", "in line 2, found ''"),
        ("000000.jpg 0\n000001.jpg 1\n", "pictures of all three splits, found none for test"),
    ],
)
def test_a_bad_line_of_the_partition_is_named(tmp_path: Path, partition: str, found: str) -> None:
    write_celeba(tmp_path, partition)
    with pytest.raises(InputError, match=f"celeba/list_eval_partition.txt: expected .*{found}"):
        load_dataset("celeba", tmp_path)


def test_a_face_that_is_missing_or_foreign_is_named(tmp_path: Path) -> None:
    pictures = write_celeba(tmp_path)
    Image.new("RGB", (178, 178)).save(pictures / "000004.jpg")
    with pytest.raises(InputError, match=r"000004.jpg: expected 178 x 218 pixels, found 178 x 178"):
        load_dataset("celeba", tmp_path)
    (pictures / "000004.jpg").write_bytes((pictures / "000003.jpg").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"000004.jpg: expected a picture, found a file that cannot be decoded"):
        load_dataset("celeba", tmp_path)
    (pictures / "000003.jpg").unlink()
    with pytest.raises(InputError, match=r"000003.jpg: expected a picture of CelebA, found none .No such file"):
        load_dataset("celeba", tmp_path)


def test_without_celeba_its_home_is_named(tmp_path: Path) -> None:
    expected = r"list_eval_partition.txt: expected the partition of CelebA .*by hand from https://mmlab.*, found none"
    with pytest.raises(InputError, match=expected):
        load_dataset("celeba", tmp_path)
