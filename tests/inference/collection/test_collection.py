"""A collection, against single memories and searches by hand; with untrained networks, which are enough for both."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from inference.collection.collection import Collection
from inference.collection.contents import Contents
from inference.collection.records import Match, Recalled
from inference.collection.slots import Slots
from inference.trained_memory import TrainedMemory
from kpp_pyro.errors import InputError, OutputError
from kpp_pyro.files.collections import Shard
from kpp_pyro.files.collections import _write as write
from tests.programs import IMAGE_SHAPE, WRITES, small_pair

CAPACITY = 16


@pytest.fixture(autouse=True)
def few_cues(monkeypatch: pytest.MonkeyPatch) -> None:
    """To calibrate with: these tests are not about the probabilities."""
    monkeypatch.setattr("inference.collection.collection._CALIBRATION_CUES", 24)


def opened(write="allocate", **changes):
    program = small_pair(write, **changes)
    return TrainedMemory(program.model.eval(), program.guide.eval())


def some_images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, *IMAGE_SHAPE, dtype=torch.float64, generator=generator) < 0.5).double()


def written(count, trained=None, names=None):
    collection = Collection(trained or opened())
    collection.write(some_images(count), names)
    return collection


@pytest.mark.parametrize("write", WRITES)
def test_images_are_read_back_as_from_single_memories(write):
    """The same contents, in the same blocks, read with the same keys as by `TrainedMemory`."""
    trained, images = opened(write), some_images(2 * CAPACITY)
    collection = Collection(trained)
    collection.write(images)
    assert (collection.capacity, collection.memories, trained.capacity) == (CAPACITY, 2, CAPACITY)
    for number, part in enumerate(images.split(CAPACITY)):
        memory = collection.memory(number)
        if write == "allocate":  # whose blocks are in order, too
            torch.testing.assert_close(memory.value, trained.write(part).value.float())
        read = trained.inspect(memory).images
        names = [str(number * CAPACITY + place) for place in range(CAPACITY)]
        torch.testing.assert_close(collection.read(names), read)


def test_names_of_a_memory_are_in_the_order_of_its_blocks_without_those_removed():
    collection = written(CAPACITY + 2)
    collection.remove("1")
    assert collection.names_in(0) == ["0", *map(str, range(2, CAPACITY))]
    assert collection.names_in(1) == [str(CAPACITY), str(CAPACITY + 1)]
    collection.write(some_images(1, seed=1), ["new"])
    assert collection.names_in(0)[:2] == ["0", "new"]
    with pytest.raises(InputError, match="expected a memory below 2, found 2"):
        collection.names_in(2)


@pytest.mark.parametrize(
    "changes", [{"reads": 3}, {"signs_per_scalar": 4, "episode_length": 8}, {"episode_encoder": "attention"}]
)
def test_several_blocks_packed_signs_and_attention(changes):
    """An image is written alone: to R blocks, of which a memory has N // R; signs are packed."""
    trained, images = opened(**changes), some_images(5)
    collection = Collection(trained)
    collection.write(images)
    assert collection.capacity == CAPACITY // changes.get("reads", 1)
    alone = torch.cat([trained.inspect(trained.write(image[None])).images[:1] for image in images])
    torch.testing.assert_close(collection.read(collection.names), alone)


def test_an_image_finds_its_name_its_memory_and_its_block():
    collection, images = written(20), some_images(20)
    for number, recalled in enumerate(collection.recall(images, matches=20)):
        found = {match.name: match for match in recalled.matches}
        match = found[str(number)]
        assert (match.memory, match.block) == divmod(number, CAPACITY)
        torch.testing.assert_close(match.image, collection.read([str(number)])[0])
        total = sum(match.probability for match in recalled.matches) + recalled.never_written
        assert 0 < total <= 1 + 1e-5
        chances = [match.probability for match in recalled.matches]
        assert chances == sorted(chances, reverse=True)


def test_candidates_are_ordered_by_their_error_over_the_known_pixels():
    collection, cues = written(20), some_images(3, seed=5)
    missing = torch.zeros_like(cues, dtype=torch.bool)
    missing[1:, :, :5] = True
    cues[missing] = math.nan
    read = collection.read(collection.names)
    for cue, hole, recalled in zip(cues, missing, collection.recall(cues, missing, matches=20), strict=True):
        errors = {
            name: (image - cue)[~hole].square().mean().item()
            for name, image in zip(collection.names, read, strict=True)
        }
        assert [match.name for match in recalled.matches] == sorted(errors, key=errors.__getitem__)


def test_a_left_out_image_is_no_candidate_and_the_others_stay():
    collection, images = written(20), some_images(20)
    missing = torch.zeros_like(images, dtype=torch.bool)
    missing[::2, :, 3:6] = True
    search, own = collection._searched(), torch.arange(20)
    without = search.rank(images, missing, 8, own)
    assert not (without.slots == own.unsqueeze(-1)).any()
    everything = search.rank(images, missing, 20)
    for row, slots in enumerate(search.rank(images, missing, 20, own).slots):
        others = [slot for slot in everything.slots[row].tolist() if slot != row]
        assert slots.tolist() == [*others, -1]


def test_removed_blocks_are_free_and_are_taken_again():
    collection, images = written(20), some_images(20)
    collection.remove("3")
    assert "3" not in collection and len(collection) == 19
    assert all(match.name != "3" for match in collection.recall(images[3], matches=20)[0].matches)
    assert not collection.memory(0).value[..., 0].isnan().any()
    collection.write(images[3:4], ["again"])
    match = next(m for m in collection.recall(images[3], matches=20)[0].matches if m.name == "again")
    assert (match.memory, match.block) == (0, 3) and collection.memories == 2
    assert collection.write(images[:1]) == ["20"]  # numbers are not given twice


def test_shards_are_filled_one_after_the_other(monkeypatch):
    monkeypatch.setattr("inference.collection.slots._SLOTS_PER_SHARD", 6)
    slots = Slots((1, 2, 1, 1), capacity=2)
    blocks = torch.arange(40.0).view(20, 1, 2, 1, 1)
    taken = slots.put(["a"], blocks[:1]) + slots.put([f"b{n}" for n in range(12)], blocks[1:13])
    assert taken == list(range(13)) and [len(shard.names) for shard in slots.shards()] == [6, 6, 1]
    assert torch.equal(slots.blocks(torch.tensor([12, 0, 7])), blocks[[12, 0, 7]])
    slots.clear("b6")
    slots.clear("a")
    assert slots.put(["c", "d", "e"], blocks[13:16]) == [0, 7, 13]
    assert torch.equal(slots.blocks(torch.tensor([7, 13, 0, 1])), blocks[[14, 15, 13, 1]])
    assert not slots.is_free().any()


def test_a_saved_collection_recalls_the_same(tmp_path):
    collection = written(20, names=[f"päge/{n} \n$.png" for n in range(20)])
    collection.remove(collection.names[4])
    cues = some_images(4, seed=7)
    expected = collection.recall(cues)
    collection.save(tmp_path / "c")
    loaded = Collection.load(tmp_path / "c", collection.trained)
    assert loaded.names == collection.names and len(loaded) == 19
    for found, before in zip(loaded.recall(cues), expected, strict=True):
        assert found.never_written == before.never_written
        for match, same in zip(found.matches, before.matches, strict=True):
            assert (match.name, match.memory, match.block, match.probability) == (
                same.name,
                same.memory,
                same.block,
                same.probability,
            )
            assert torch.equal(match.image, same.image)


def test_a_loaded_collection_grows_and_its_files_stay_until_it_is_saved(tmp_path):
    collection, images = written(10), some_images(40)
    collection.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    loaded = Collection.load(tmp_path, collection.trained)
    loaded.write(images[10:])
    loaded.remove("2")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    loaded.save(tmp_path)
    again = Collection.load(tmp_path, collection.trained)
    assert again.names == loaded.names and len(list(tmp_path.glob("blocks-*"))) == 1
    torch.testing.assert_close(again.read(["0", "35"]), loaded.read(["0", "35"]))


def test_a_save_that_fails_loses_nothing(tmp_path, monkeypatch):
    collection = written(10)
    collection.save(tmp_path)
    collection.write(some_images(5, seed=3))

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("kpp_pyro.files.collections.atomic_write", fail)
    with pytest.raises(OutputError, match="no space"):
        collection.save(tmp_path)
    assert len(Collection.load(tmp_path, collection.trained)) == 10


def damaged(folder, kind):
    listed, blocks = folder / "collection.json", next(folder.glob("blocks-*"))
    content = json.loads(listed.read_text())
    if kind == "no list":
        listed.unlink()
    elif kind == "no blocks":
        blocks.unlink()
    elif kind == "cut blocks":
        blocks.write_bytes(blocks.read_bytes()[:200])
    elif kind == "no JSON":
        listed.write_text("{")
    elif kind == "another folder's file":
        listed.write_text(json.dumps({**content, "files": ["../blocks-1.safetensors"]}))
    elif kind == "another number":
        listed.write_text(json.dumps({**content, "images": 3}))
    elif kind == "another shape":
        listed.write_text(json.dumps({**content, "block_shape": [1, 1, 1, 1]}))
    elif kind == "another calibration":
        listed.write_text(json.dumps({**content, "calibration": {"beta": "high"}}))
    elif kind == "another author":
        listed.write_text(json.dumps({**content, "author": "x"}))
    elif kind == "a short calibration":
        content["calibration"]["right"]["weights"].pop()
        listed.write_text(json.dumps(content))
    elif kind == "other bytes":
        changed = bytearray(blocks.read_bytes())
        changed[-40:] = bytes(40)
        blocks.write_bytes(changed)
    elif kind in ("another type", "not a number"):
        values = load_file(blocks)["blocks"]
        names = json.dumps([*(str(n) for n in range(10))])
        values = values.half() if kind == "another type" else values.masked_fill(values == values.max(), math.nan)
        (name,) = [write(folder, "blocks-00000", "blocks", Shard(values, json.loads(names)))]
        listed.write_text(json.dumps({**content, "files": [name]}))


KINDS = ["no list", "no blocks", "cut blocks", "no JSON", "another folder's file", "another number", "another shape"]


KINDS += ["another calibration", "a short calibration", "another author", "other bytes", "another type", "not a number"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_collection_is_named(tmp_path, kind):
    collection = written(10)
    collection.save(tmp_path / "c")
    damaged(tmp_path / "c", kind)
    with pytest.raises(InputError, match=r"/c.*expected .*found"):
        Collection.load(tmp_path / "c", collection.trained)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(InputError, match="found something else"):
        written(3).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "expected 2, one for each image, found 1"),
        (["a", "a"], "one twice, 'a'"),
        (["a", "0"], "one that the collection has, '0'"),
        ("ab", "expected a list, found 'ab'"),
        ([1, 2], "expected a text"),
    ],
)
def test_names_that_cannot_be_are_refused_and_nothing_is_written(names, message):
    collection = written(3)
    with pytest.raises(InputError, match=message):
        collection.write(some_images(2), names)
    assert collection.names == ["0", "1", "2"]


def test_what_cannot_be_recalled_is_refused():
    collection, cue = written(3), some_images(1)
    with pytest.raises(InputError, match="found an empty one"):
        Collection(collection.trained).recall(cue)
    with pytest.raises(InputError, match="at least one known pixel"):
        collection.recall(cue, torch.ones_like(cue, dtype=torch.bool))
    with pytest.raises(InputError, match="mask: expected bool"):
        collection.recall(cue, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(InputError, match="cues: expected"):
        collection.recall(cue[..., 1:])
    with pytest.raises(InputError, match="name: expected an image of the collection, found 'x'"):
        collection.remove("x")


def test_a_single_image_is_recalled_with_the_prior_probability():
    recalled = written(1).recall(some_images(1))[0]
    assert recalled.never_written == 0.5 and recalled.matches[0].probability == pytest.approx(0.5)


def test_models_without_blocks_are_refused():
    program = small_pair(model="dynamic_kanerva_machine")
    with pytest.raises(InputError, match="blocks of their own"):
        Collection(TrainedMemory(program.model, program.guide))


def test_contents_do_not_depend_on_other_images():
    contents, images = Contents(opened(episode_encoder="temporal_shift")), some_images(6)
    together = contents.of_images(images)
    torch.testing.assert_close(together[2:3], contents.of_images(images[2:3]))


def test_more_images_than_blocks_are_noted_once(capsys):
    trained = opened()
    trained.write(some_images(CAPACITY))
    assert capsys.readouterr().err == ""
    for _ in range(2):
        trained.write(some_images(CAPACITY + 1))
    assert capsys.readouterr().err.count("17 images share what one memory has for 16") == 1


def test_two_writers_do_not_overwrite_each_other(tmp_path):
    collection = written(3)
    collection.save(tmp_path)
    first, second = (Collection.load(tmp_path, collection.trained) for _ in range(2))
    first.write(some_images(1, seed=1), ["first"])
    first.save(tmp_path)
    first.save(tmp_path)  # its own
    second.write(some_images(1, seed=2), ["second"])
    with pytest.raises(InputError, match="saved elsewhere since"):
        second.save(tmp_path)
    with pytest.raises(InputError, match="expected the collection that was loaded from there"):
        written(3).save(tmp_path)
    assert "first" in Collection.load(tmp_path, collection.trained)


def test_a_collection_that_grows_one_by_one_is_calibrated_on_all_of_it(tmp_path):
    trained, images = opened(), some_images(12)
    collection = Collection(trained)
    for number, image in enumerate(images):
        collection.write(image[None], [f"{number}.png"])
        collection.save(tmp_path)
        collection = Collection.load(tmp_path, trained)
    calibration = collection.calibration
    assert calibration is not None and calibration.images >= 10
    before = calibration.collection
    collection.recall(images[:1])
    assert collection.calibration is calibration  # not again
    for number in range(4):
        collection.remove(f"{number}.png")
    collection.recall(images[:1])
    assert collection.calibration.collection == 8 < before


def test_images_that_were_written_twice_do_not_count_as_left_out():
    collection = written(8)
    collection.write(some_images(4), ["a", "b", "c", "d"])
    assert collection.calibrate().images == 4
    same = Collection(collection.trained)
    same.write(some_images(1).expand(3, -1, -1, -1), ["a", "b", "c"])
    assert same.calibrate() is None


def test_both_names_of_an_image_have_the_same_probability():
    collection, images = written(8), some_images(8)
    cue = collection.read(["2"])[0]
    alone = collection.recall(cue)[0].matches[0].probability
    collection.write(images[2:3], ["copy"])
    first, second = collection.recall(cue)[0].matches[:2]
    assert {first.name, second.name} == {"2", "copy"}
    assert first.probability == pytest.approx(second.probability) == pytest.approx(alone / 2, rel=0.1)


def test_numbers_of_images_without_names_leave_out_names_that_are_taken():
    collection = written(1, names=["1"])
    assert collection.write(some_images(2, seed=1)) == ["0", "2"]
    assert collection.write(some_images(1, seed=2)) == ["3"]


def test_a_match_is_found_only_if_it_is_more_probable_than_all_else():
    match = Match("a", 0, 0, 0.4, torch.zeros(1, 2, 2))
    assert Recalled((match,), 0.1).found is None
    assert Recalled((replace(match, probability=0.6),), 0.1).found.name == "a"
    assert Recalled((), 0.5).found is None
