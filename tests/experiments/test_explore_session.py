"""What the controls of `explore.py` do to a session, and what is shown of it; the page is in `test_explore.py`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.shared.explore_own import MOST_FILES, OwnPictures
from experiments.shared.explore_session import Explorer, Session
from experiments.shared.explore_view import View
from inference.collection.collection import Collection, Match, Recalled
from inference.trained_memory import TrainedMemory
from kpp_pyro.errors import InputError
from tests.programs import WRITES, random_episodes, small_pair

PLACES = [(0.0, 100.0, 0.0), (100.0, 0.0, 50.0), (31.4, 59.2, 99.7), (50.0, 50.0, 100.0)]


@pytest.fixture(scope="module", params=WRITES)
def explorer(request: pytest.FixtureRequest) -> Explorer:
    """A small memory as it is before training, whose keys are anywhere."""
    torch.manual_seed(0)
    pair = small_pair(request.param, reads=2)
    trained_memory = TrainedMemory(pair.model.float(), pair.guide.float())
    return Explorer(trained_memory, list(random_episodes().float()))


@pytest.fixture
def session(explorer: Explorer) -> Session:
    return explorer.open(1)


def boxes(explorer: Explorer, *sliders: tuple[float, float, float]) -> torch.Tensor:
    return explorer.addressing.boxes(torch.cat([explorer.key(percent) for percent in sliders]))


def test_the_sliders_of_a_key_read_the_block_of_its_first_read(explorer, session):
    sliders = [explorer.percent(key) for key in session.keys]
    shown, own = boxes(explorer, *sliders), explorer.addressing.boxes(session.keys)
    assert shown.shape == own.shape == (6, 2, 4)
    assert (shown[:, 0] - own[:, 0]).abs().max() < 0.03  # a tenth of a percent of a memory of 8 x 8
    assert torch.equal(shown[:, 0], shown[:, 1])
    assert len(set(sliders)) > 1


@pytest.mark.parametrize("percent", PLACES)
def test_sliders_are_shares_of_the_prior_and_keys_are_finite_at_their_ends(explorer, percent):
    x, y, scale = explorer.numbers(percent)
    shares = torch.special.ndtr(torch.tensor([x, y, scale]))
    assert shares.tolist() == pytest.approx([p / 100 for p in percent], abs=2e-4)
    assert explorer.key(percent)[0].tolist() == [pytest.approx([scale, x, y])] * 2
    assert explorer.percent(explorer.key(percent)[0]) == percent


@pytest.mark.parametrize("scale", [0.0, 30.0])
def test_the_block_pointed_at_lies_around_the_place_or_as_near_as_the_memory_allows(explorer, scale):
    layout = explorer.addressing.layout
    for across, down in [(0.55, 0.3), (0.9, 0.7), (0.0, 1.0)]:
        left, top, width, height = boxes(explorer, explorer.point_at(across, down, scale))[0, 0].tolist()
        x, y = across * layout.width, down * layout.height
        assert left - 0.01 <= x <= left + width + 0.01 and top - 0.01 <= y <= top + height + 0.01


def test_the_images_at_a_place_are_those_whose_keys_read_it(explorer, session):
    own = explorer.addressing.boxes(session.keys)
    for image, key in enumerate(session.keys):
        at = explorer.images_at(session, explorer.percent(key))
        assert image in at
        for other in set(range(6)) - set(at):
            assert ((own[other] - own[image, :1]).abs() > 0.4).any(-1).all()


def test_what_the_sliders_read_is_what_their_key_reads(explorer, session):
    percent = explorer.percent(session.keys[3])
    expected = explorer.trained.read(session.memory, explorer.key(percent)).images[0]
    assert torch.equal(explorer.read(session, percent), expected)
    assert session.error(session.episode[session.chosen]) == 0
    assert session.error(1 - session.episode[session.chosen]) == session.episode[0].numel()


@pytest.mark.parametrize(("corruption", "strength"), [("salt_and_pepper", 0.3), ("mask", 0.4)])
def test_reads_by_steps_are_those_of_one_recall(explorer, session, corruption, strength):
    session = explorer.corrupt(session, corruption, strength)
    assert not torch.equal(session.cue.images, session.episode)
    whole = explorer.trained.complete(session.memory, session.cue.images, session.cue.hidden, steps=3)
    for step, expected in enumerate(whole, 1):
        session, percent = explorer.read_once(session)
        assert len(session.reads) == step
        torch.testing.assert_close(session.reads[-1], expected.images)
        assert percent == explorer.percent(expected.keys[0])
    assert explorer.corrupt(session, corruption, strength).reads == ()
    again = explorer.start_again(session)
    assert again.reads == () and torch.equal(again.cue.images, session.episode)


def test_a_strength_that_a_corruption_cannot_have_is_refused(explorer, session):
    with pytest.raises(InputError, match="strength of mask"):
        explorer.corrupt(session, "mask", 1.5)


def test_the_block_pointed_at_is_the_one_of_that_number(explorer):
    layout = explorer.addressing.layout
    for block in range(layout.blocks):
        row, column = divmod(block, layout.columns)
        percent = explorer.point_at((column + 0.5) / layout.columns, (row + 0.5) / layout.rows, 20.0)
        assert explorer.block_at(percent) == block
    assert explorer.block_at((30.0, 40.0, 100.0)) is None  # the whole memory


# Pictures of one's own.


@pytest.fixture(autouse=True)
def few_cues(monkeypatch: pytest.MonkeyPatch) -> None:
    """To calibrate with: these tests are not about the probabilities."""
    monkeypatch.setattr("inference.collection.collection._CALIBRATION_CUES", 24)


def save(folder: Path, images: torch.Tensor, *names: str) -> list[Path]:
    """Picture files of binary images (n, 1, H, W)."""
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray((image[0] * 255).byte().numpy()).save(folder / name)
    return [folder / name for name in names]


@pytest.fixture
def drawn() -> torch.Tensor:
    return random_episodes(seed=5).float().flatten(0, 1)  # (18, 1, 16, 16)


def test_own_pictures_fill_memories_that_are_explored_like_episodes(explorer, drawn, tmp_path):
    own, names = explorer.own(), [f"{n}.png" for n in range(18)]
    assert own.write(save(tmp_path, drawn, *names), dark_on_light=False)[0] == names
    assert (own.collection.capacity, own.collection.memories) == (8, 3)  # of two blocks an image
    assert [own.collection.memory_of(name) for name in ("0.png", "7.png", "8.png", "17.png")] == [0, 0, 1, 2]
    session = explorer.open_own(own, 1)
    assert torch.equal(session.episode, drawn[8:16]) and session.names == tuple(names[8:16])
    assert session.title == "image 1, 8.png"
    session, _ = explorer.read_once(explorer.corrupt(session, "salt_and_pepper", 0.2))
    for number, cue in enumerate(session.cue.images):  # each as an episode of its own, as a collection writes
        read = explorer.trained.recall(session.memory, cue[None])[0]
        torch.testing.assert_close(session.reads[-1][number], read.images[0])


def test_names_that_are_there_already_get_a_number(explorer, drawn, tmp_path):
    own = explorer.own()
    files = save(tmp_path, drawn[:3], "a/x.png", "b/x.png", "c/y.png")
    assert own.write(files, False)[0] == ["x.png", "x (2).png", "y.png"]
    assert own.write(files[:1], False)[0] == ["x (3).png"]


def test_what_is_dark_on_light_is_inverted_and_greys_are_cut_at_a_half(explorer, drawn, tmp_path):
    own = explorer.own()
    for dark_on_light, light, dark in ((False, 0.8, 0.3), (True, 0.2, 0.7)):
        grey = torch.where(drawn[:1] > 0, light, dark)
        assert torch.equal(own.write(save(tmp_path, grey, "grey.png"), dark_on_light)[1], drawn[:1])


def test_a_file_that_is_no_picture_is_named_and_nothing_is_written(explorer, drawn, tmp_path):
    own, files = explorer.own(), save(tmp_path, drawn[:1], "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(InputError, match=r"^bad\.png: expected a picture"):
        own.write([*files, tmp_path / "bad.png"], False)
    with pytest.raises(InputError, match="at most 1,000 files at once, found 1,001"):
        own.write(files * (MOST_FILES + 1), False)
    assert len(own.collection) == 0
    with pytest.raises(InputError, match="expected pictures to search, found none"):
        own.find(files[0], False)


def test_a_saved_collection_is_begun_with_and_left_as_it_was(explorer, drawn, tmp_path):
    saved = Collection(explorer.trained)
    saved.write(drawn[:9], [f"old {n}" for n in range(9)])
    saved.save(tmp_path / "c")
    before = {path: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    here, there = (Explorer(explorer.trained, explorer.episodes, tmp_path / "c").own() for _ in range(2))
    here.write(save(tmp_path, drawn[17:], "new.png"), False)
    assert here.episode(1)[0] == ["old 8", "new.png"]
    assert torch.equal(here.episode(1)[1][1], drawn[17])
    assert torch.equal(here.episode(0)[1], (saved.read([f"old {n}" for n in range(8)]) > 0.5).float())
    assert len(there.collection) == 9  # browsers share nothing
    assert {path: path.read_bytes() for path in (tmp_path / "c").iterdir()} == before


def test_a_memory_whose_pictures_were_removed_is_refused(explorer, drawn):
    collection = Collection(explorer.trained)
    collection.write(drawn[:9])
    collection.remove("8")
    with pytest.raises(InputError, match="memory 1: expected pictures, found none"):
        explorer.open_own(OwnPictures(collection), 1)


def figures(shown: str) -> list[tuple[str, str]]:
    """Alternative texts and captions."""
    return re.findall(r'<img alt="([^"]*)".*?<figcaption>(.*?)</figcaption>', shown)


def test_matches_are_shown_best_first_or_it_is_said_that_there_is_none(explorer, drawn, tmp_path):
    own = explorer.own()
    own.write(save(tmp_path, drawn[:3], "a.png", "b.png", "c.png"), False)
    cue, recalled = own.find(tmp_path / "b.png", False)
    shown = figures(View(explorer).found(own, cue, recalled))
    chances = [float(chance) for chance in re.findall(r"probability ([\d.]+)", str(shown))]
    assert len(chances) == 3 and chances == sorted(chances, reverse=True)
    assert {caption[3:8] for _, caption in shown[1:]} == {"a.png", "b.png", "c.png"}
    assert 0 < sum(chances) + recalled.never_written <= 1 + 2e-3

    first = Match("<i>.png", 2, 5, 0.3, drawn[0])
    for never_written, said in ((0.4, "Not in here"), (0.2, "&lt;i&gt;.png</b>: probability 0.300")):
        shown = View(explorer).found(own, cue, Recalled((first,), never_written))
        assert said in shown and f"{never_written:.3f}" in shown and "<i>" not in shown
        assert figures(shown)[1][0] == "match: &lt;i&gt;.png, read from memory 2, block 5"


def test_a_single_picture_is_found_without_a_probability(explorer, drawn, tmp_path):
    own, file = explorer.own(), save(tmp_path, drawn[:1], "only.png")[0]
    own.write([file], False)
    shown = View(explorer).found(own, *own.find(file, False))
    assert "this is the only one" in shown and "Not in here" not in shown and "probability" not in str(figures(shown))


def test_texts_of_images_say_which_they_are(explorer, session):
    view, percent = View(explorer), explorer.own_key(session)
    session, _ = explorer.read_once(explorer.corrupt(session, "salt_and_pepper", 0.3))
    shown = [view.episode(session), *view.at_key(session, percent)[:2], view.strip(session)]
    texts = re.findall(r'alt="([^"]*)"', " ".join(shown))
    assert len(set(texts)) == len(texts) == 7
    assert texts[0] == "The 6 images of the episode; chosen: image 1"
    block = explorer.block_at(percent)
    assert texts[2].startswith("read at key ") and f"block {block}, the block of image" in texts[2]
    assert texts[4:] == [
        "original: image 1, as written",
        "cue: image 1, with salt and pepper 0.3",
        "read 1: image 1, of the cue with salt and pepper 0.3",
    ]
