"""recall.py: pictures on disk are written, found from damaged copies, added and removed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from inference import Collection, corrupt, load
from kpp_pyro.data import load_dataset
from tests.experiments.learned import LEARNED
from tests.experiments.running import Finished, refused, run, trained

SIDE = 16  # of the digits


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "digits", *LEARNED)


def save_picture(path: Path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image[0] * 255).round().byte().numpy()).save(path)


@pytest.fixture
def digits() -> torch.Tensor:
    return (load_dataset("digits", Path("nowhere")).test.images[:40] > 127).float()


@pytest.fixture
def drawings(tmp_path: Path, digits: torch.Tensor) -> Path:
    for number, image in enumerate(digits[:30]):
        save_picture(tmp_path / "drawings" / f"{number % 3}" / f"{number}.png", image)
    return tmp_path / "drawings"


def recall(learned: Path, *arguments: object) -> Finished:
    finished = run("recall.py", learned, "--device", "cpu", *arguments)
    assert finished.returncode == 0, finished.stderr
    return finished


def report(collection: Path) -> dict[str, object]:
    return json.loads((collection / "recall.json").read_text())


def test_a_noisy_scan_and_a_torn_one_find_their_pictures(learned, drawings, digits, tmp_path):
    collection = tmp_path / "c"
    output = recall(learned, "--write", drawings, "--out", collection).stdout
    assert "30 written; read back with" in output and "30 pictures in 2 memories of 16" in output
    noisy = corrupt(digits[7], "salt_and_pepper", 0.1, torch.Generator().manual_seed(0)).images
    save_picture(tmp_path / "cues" / "noisy.png", noisy)
    save_picture(tmp_path / "cues" / "same.png", digits[20])
    output = recall(learned, "--collection", collection, "--cue", tmp_path / "cues").stdout
    cues = {cue["cue"]: cue for cue in report(collection)["cues"]}
    assert cues["noisy.png"]["matches"][0]["name"] == "1/7.png"
    match = cues["same.png"]["matches"][0]
    names = sorted(path.relative_to(drawings).as_posix() for path in drawings.rglob("*.png"))
    assert (match["name"], 16 * match["memory"] + match["block"]) == ("2/20.png", names.index("2/20.png"))
    assert match["probability"] > 0.9 > 0.1 > cues["same.png"]["never_written_probability"]
    assert "1/7.png" in output and "never written" in output
    assert (collection / "recall.png").read_bytes().startswith(b"\x89PNG")


def test_a_mask_says_what_a_cue_lacks(learned, drawings, digits, tmp_path):
    recall(learned, "--write", drawings, "--out", tmp_path / "c")
    torn, hole = digits[11].clone(), torch.zeros(1, SIDE, SIDE)
    hole[:, :5] = 1
    torn[hole > 0] = 1  # white paper
    save_picture(tmp_path / "torn.png", torn)
    save_picture(tmp_path / "hole.png", hole)
    cue = ["--collection", tmp_path / "c", "--cue", tmp_path / "torn.png"]
    recall(learned, *cue, "--mask", tmp_path / "hole.png")
    assert report(tmp_path / "c")["cues"][0]["matches"][0]["name"] == "2/11.png"
    run_, (mask,) = load(learned, "cpu"), [hole > 0]
    direct = Collection.load(tmp_path / "c", run_.memory).recall(torn, mask)[0]
    assert report(tmp_path / "c")["cues"][0]["never_written_probability"] == pytest.approx(direct.never_written)


def test_pictures_are_added_and_removed(learned, drawings, digits, tmp_path):
    recall(learned, "--write", drawings, "--out", tmp_path / "c")
    save_picture(tmp_path / "more" / "new.png", digits[35])
    output = recall(
        learned, "--collection", tmp_path / "c", "--write", tmp_path / "more", "--remove", "0/3.png", "1/4.png"
    ).stdout
    assert "29 pictures in 2 memories" in output
    names = Collection.load(tmp_path / "c", load(learned, "cpu").memory).names
    assert "new.png" in names and "0/3.png" not in names and "1/4.png" not in names


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_of_any_bytes_are_kept_shown_and_drawn(learned, digits, tmp_path):
    names = [b"sur\xff.png", b"a\nb.png", b"$x$.png"]
    for name, image in zip(names, digits, strict=False):
        save_picture(tmp_path / "drawings" / os.fsdecode(name), image)
    recall(learned, "--write", tmp_path / "drawings", "--out", tmp_path / "c")
    recall(learned, "--collection", tmp_path / "c", "--cue", tmp_path / "drawings", "--matches", 1)
    found = [cue["matches"][0]["name"] for cue in report(tmp_path / "c")["cues"]]
    assert sorted(map(os.fsencode, found)) == sorted(names)
    assert (tmp_path / "c" / "recall.png").is_file()


def test_dark_drawings_on_light_paper(learned, drawings, digits, tmp_path):
    recall(learned, "--write", drawings, "--out", tmp_path / "c")
    save_picture(tmp_path / "paper.png", 1 - digits[9])
    recall(learned, "--collection", tmp_path / "c", "--cue", tmp_path / "paper.png", "--dark-on-light")
    assert report(tmp_path / "c")["cues"][0]["matches"][0]["name"] == "0/9.png"


def test_a_run_of_dark_drawings_inverts_them_without_the_flag(learned, digits, tmp_path):
    dark = tmp_path / "run"
    shutil.copytree(learned, dark)
    config = json.loads((dark / "config.json").read_text())
    config["config"]["data"] |= {"dataset": "folder", "dark_on_light": True}
    (dark / "config.json").write_text(json.dumps(config))
    for name, image in enumerate(digits[:4]):
        save_picture(tmp_path / "paper" / f"{name}.png", 1 - image)
    save_picture(tmp_path / "light.png", digits[2])
    recall(dark, "--write", tmp_path / "paper", "--out", tmp_path / "c", "--cue", tmp_path / "paper" / "2.png")
    assert report(tmp_path / "c")["cues"][0]["matches"][0]["name"] == "2.png"
    recall(
        learned, "--collection", tmp_path / "c", "--cue", tmp_path / "light.png"
    )  # what was written is light on dark
    assert report(tmp_path / "c")["cues"][0]["matches"][0]["name"] == "2.png"


REFUSED = {
    "no collection": (["--write", "drawings"], "--out, --collection: expected one of the two"),
    "two collections": (["--write", "drawings", "--out", "new", "--collection", "c"], "found both"),
    "nothing to do": (["--collection", "c"], "--write, --cue, --remove"),
    "nothing to write": (["--out", "new", "--cue", "drawings"], "--out: expected pictures"),
    "a mask of another size": (
        ["--collection", "c", "--cue", "drawings", "--mask", "hole.png"],
        "--mask: expected a picture of the size of drawings/0/0.png, 16 x 16, found hole.png of 20 x 20",
    ),
    "a mask that hides everything": (
        ["--out", "new", "--write", "more", "--cue", "drawings", "--mask", "white.png"],
        "--mask: expected a known pixel, found none: white.png is light everywhere",
    ),
    "a folder as a mask": (["--collection", "c", "--cue", "drawings", "--mask", "drawings"], "expected a picture"),
    "a cue that is not there": (
        ["--collection", "c", "--write", "more", "--cue", "nowhere.png"],
        "--cue: nowhere.png: expected",
    ),
    "a mask alone": (["--collection", "c", "--write", "drawings", "--mask", "x.png"], "--mask: expected a cue"),
    "a taken folder": (["--out", "drawings", "--write", "drawings"], "--out: expected a new or empty folder"),
    "no such collection": (["--collection", "nowhere", "--cue", "drawings"], "nowhere"),
    "pictures that are in it": (["--collection", "c", "--write", "drawings"], "one that the collection has, '0/0.png'"),
    "an unknown name": (["--collection", "c", "--remove", "x.png"], "--remove: name: expected an image"),
    "no picture": (["--collection", "c", "--cue", "c/collection.json"], "expected a picture"),
    "another index": (["--collection", "c", "--cue", "drawings", "--index", "hash"], "--index: expected one of"),
}


@pytest.fixture(scope="module")
def folder(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("refused")
    save_picture(place / "drawings" / "0" / "0.png", torch.ones(1, SIDE, SIDE))
    save_picture(place / "drawings" / "1.png", torch.zeros(1, SIDE, SIDE))
    save_picture(place / "more" / "2.png", torch.eye(SIDE)[None])
    save_picture(place / "hole.png", torch.ones(1, 20, 20))
    save_picture(place / "white.png", torch.ones(1, SIDE, SIDE))
    recall(learned, "--write", place / "drawings", "--out", place / "c")
    return place


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_sentence_and_the_collection_stays(case, learned, folder):
    arguments, sentence = REFUSED[case]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert sentence in refused(run("recall.py", learned, *arguments, cwd=folder))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_collection_of_another_run_is_refused(learned, folder, tmp_path):
    other = trained(tmp_path / "other", *LEARNED[:2], *["--steps", "2", "--evaluate-every", "2"], *LEARNED[8:])
    assert "one of another" in refused(run("recall.py", other, "--collection", "c", "--cue", "drawings", cwd=folder))
