"""Memory files: bit for bit, whole or not at all, and readable by anyone."""

from __future__ import annotations

import errno
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kpp_pyro.errors import InputError, OutputError
from kpp_pyro.files.memories import load_memory, save_memory

AUTHOR = "a5" * 32
SHAPES = pytest.mark.parametrize("shape", [(2, 3, 4), (5, 2, 3, 4), (1, 2, 3, 4)], ids=str)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "notes.safetensors"


def refused(path):
    return pytest.raises(InputError, match=f"^{re.escape(str(path))}: expected a ")


def write_file(path, tensors=None, **metadata):
    """A file like that of `save_memory`, but for what is given."""
    tensors = {"memory": torch.zeros(2, 3, 4)} if tensors is None else tensors
    save_file(tensors, path, {"format": "kpp_pyro.memory", "version": "1", "author": AUTHOR, **metadata})


@SHAPES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_memory_comes_back_bit_for_bit(path, shape, dtype):
    memory = torch.randn(shape, dtype=dtype)
    memory.view(-1)[:5] = torch.tensor([-0.0, torch.inf, -torch.inf, torch.nan, torch.finfo(dtype).tiny / 2])
    save_memory(path, memory, AUTHOR)
    loaded, author = load_memory(path)
    assert author == AUTHOR and loaded.dtype == dtype and loaded.shape == shape
    assert torch.equal(loaded.view(torch.uint8), memory.view(torch.uint8))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_part_of_a_memory_and_one_with_a_gradient_come_back(path):
    whole = torch.randn(3, 2, 3, 4, requires_grad=True)
    for part in (whole[1], whole[:, 0], whole.transpose(-1, -2)):
        save_memory(path, part, AUTHOR)
        assert torch.equal(load_memory(path)[0], part)


def test_the_file_opens_with_plain_safetensors(path):
    memory = torch.randn(2, 3, 4)
    save_memory(str(path), memory, AUTHOR)
    assert {name: torch.equal(value, memory) for name, value in load_file(path).items()} == {"memory": True}
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "kpp_pyro.memory", "version": "1", "author": AUTHOR}


def test_a_file_cut_short_anywhere_is_refused(path):
    save_memory(path, torch.randn(2, 3, 4), AUTHOR)
    whole = path.read_bytes()
    for size in (*range(0, 40), *range(40, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:size])
        with refused(path):
            load_memory(path)


@pytest.mark.parametrize("content", [b"a text\n", b"{}", b"\xff" * 100, b"PK\x03\x04"])
def test_what_is_no_safetensors_file_is_refused(path, content):
    path.write_bytes(content)
    with refused(path):
        load_memory(path)


def test_files_of_other_programs_are_refused(path):
    save_file({"memory": torch.zeros(2, 3, 4)}, path)  # without metadata
    with refused(path):
        load_memory(path)
    write_file(path, format="somebody.else")
    with refused(path):
        load_memory(path)
    write_file(path, tensors={"weights": torch.zeros(3)})
    with refused(path):
        load_memory(path)
    write_file(path)
    assert load_memory(path)[1] == AUTHOR


@pytest.mark.parametrize("version", ["2", "0", "1.0", ""])
def test_another_version_is_refused_by_its_number(path, version):
    write_file(path, version=version)
    with pytest.raises(InputError, match=f"^{path}: expected memory version 1, found {version}$"):
        load_memory(path)


def test_a_file_that_is_not_there_is_refused(path):
    for absent in (path, path.parent, path.parent / "nowhere" / path.name):
        with refused(absent):
            load_memory(absent)


def test_a_folder_that_is_not_there_is_refused(path):
    path.write_text("a file")
    for below in (path.parent / "nowhere" / "notes", path / "notes", path.parent):
        with refused(below):
            save_memory(below, torch.zeros(2, 3, 4), AUTHOR)
    assert path.read_text() == "a file"


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["os.replace", "pathlib.Path.write_bytes"])
def test_a_failed_write_leaves_the_old_file(path, monkeypatch, where):
    memory = torch.randn(2, 3, 4)
    save_memory(path, memory, AUTHOR)
    with monkeypatch.context() as patched:
        patched.setattr(where, no_space)
        with pytest.raises(OutputError, match=f"^{path}: expected a file that can be written, found No space left"):
            save_memory(path, -memory, "another")
    loaded, author = load_memory(path)
    assert torch.equal(loaded, memory) and author == AUTHOR
    assert [file.name for file in path.parent.iterdir()] == [path.name]
