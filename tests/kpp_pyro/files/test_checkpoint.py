"""Checkpoints: whole or not at all, and nothing in them is ever executed."""

from __future__ import annotations

import errno
import io
import pickle
import re
from pathlib import Path

import pytest
import torch

from kpp_pyro.errors import InputError, OutputError
from kpp_pyro.files import checkpoint
from kpp_pyro.files.checkpoint import load_checkpoint, save_checkpoint
from kpp_pyro.schema import shown

# torch warns about the pickle protocol of files that are not its own
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")


def some_state():
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.randn(5, 3)).sum().backward()
    optimiser.step()
    return {
        "step": 17,
        "best": -1.5,
        "model": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "random": torch.get_rng_state(),
        "plain": {"names": ["a", None, True], "half": torch.randn(4).bfloat16()},
    }


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


def test_what_was_saved_is_loaded(path):
    state = some_state()
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert_same({name: loaded[name] for name in state}, state)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_loads_without_unpickling(path):
    save_checkpoint(path, some_state())
    loaded = torch.load(path, weights_only=True)
    assert loaded["format"] == checkpoint.FORMAT and loaded["version"] == checkpoint.VERSION


def test_saving_again_replaces_the_file(path):
    save_checkpoint(path, {"step": 1, "weights": torch.randn(1000)})
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 2


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_previous_checkpoint_whole(path, monkeypatch, error):
    save_checkpoint(path, {"step": 1})
    before, write_bytes = path.read_bytes(), Path.write_bytes

    def interrupted(file, content):
        write_bytes(file, content[:100])
        raise error

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        save_checkpoint(path, {"step": 2})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_write_that_fails_at_the_rename_leaves_nothing_behind(path, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.replace", refused)
    with pytest.raises(OutputError, match=f"^{path}: expected a file that can be written, found Permission denied$"):
        save_checkpoint(path, {"step": 1})
    assert not list(path.parent.iterdir())


def refuses(path, message):
    return pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{message}")


def test_a_missing_checkpoint_is_named(path):
    with refuses(path, "No such file"):
        load_checkpoint(path)
    with refuses(path.parent, "found a folder"):
        load_checkpoint(path.parent)


def legacy_bytes(state):
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def test_a_checkpoint_truncated_anywhere_is_refused(path):
    save_checkpoint(path, {"step": 1, "weights": torch.randn(8)})
    whole = path.read_bytes()
    for size in {0, 1, 4, len(whole) - 1, *range(10, len(whole), 97)}:
        path.write_bytes(whole[:size])
        with refuses(path, "truncated or foreign"):
            load_checkpoint(path)


def test_no_damage_ends_in_another_error(path):
    generator = torch.Generator().manual_seed(0)
    state = {"format": checkpoint.FORMAT, "version": checkpoint.VERSION, "weights": torch.randn(4)}
    save_checkpoint(path, state)
    for whole in (path.read_bytes(), legacy_bytes(state)):
        for _ in range(150):
            damaged = bytearray(whole)
            for place in torch.randint(len(whole), (4,), generator=generator).tolist():
                damaged[place] ^= 1 + int(torch.randint(255, (), generator=generator))
            path.write_bytes(damaged)
            try:
                load_checkpoint(path)  # what hits only padding or weights may pass
            except InputError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"# Not a checkpoint\n",
        b"step,loss\n1,2\n",  # an IndexError in torch
        b"{}",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        b"PK\x03\x04" + bytes(40),
        legacy_bytes({"step": 1})[:20],  # a struct.error in torch
        pickle.dumps({"path": Path("x")}),
        pickle.dumps(print),
    ],
)
def test_a_foreign_file_is_refused(path, content):
    path.write_bytes(content)
    with refuses(path, "truncated or foreign"):
        load_checkpoint(path)


class _Attack:
    """An object that creates a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("write", ["pickle", "torch", "torch, legacy"])
def test_nothing_in_a_foreign_file_is_executed(path, tmp_path, write):
    target = tmp_path / "executed"
    state = {"format": checkpoint.FORMAT, "version": checkpoint.VERSION, "model": _Attack(target)}
    if write == "pickle":
        path.write_bytes(pickle.dumps(state))
        pickle.loads(path.read_bytes())  # the attack does work
        assert target.exists()
        target.unlink()
    elif write == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(legacy_bytes(state))
    with refuses(path, "truncated or foreign"):
        load_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "state",
    [{"weights": torch.zeros(2)}, [1, 2], torch.zeros(3), {"format": "another"}, {"format": torch.ones(3)}, None],
)
def test_another_programs_torch_file_is_refused(path, state):
    torch.save(state, path)
    with refuses(path, "another program"):
        load_checkpoint(path)


@pytest.mark.parametrize("version", [0, checkpoint.VERSION + 1, None, torch.tensor(2)])
def test_another_version_is_refused(path, version):
    torch.save({"format": checkpoint.FORMAT, "version": version}, path)
    with refuses(path, f"expected checkpoint version {checkpoint.VERSION}, found {re.escape(shown(version))}"):
        load_checkpoint(path)
