"""Plug-ins: what they may register, which run records them, and when a run may start their code."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from inference import Config, InputError, load, load_plugins
from inference.runs import plugins
from inference.runs.pretrained import pack
from inference.runs.registries import REGISTRIES
from kpp_pyro.config_part import names_of
from kpp_pyro.priors import KEY_PRIORS
from tests.experiments.running import TINY, changed, refused, run, trained
from tests.plugged import forget, forgotten_after

PRIOR = """
from pathlib import Path
from kpp_pyro.priors.interface import KEY_PRIORS
from kpp_pyro.priors.keys import StandardNormalPrior

class Mine(StandardNormalPrior):
    pass

KEY_PRIORS["mine"] = Mine
ran = Path(__file__).with_suffix(".ran")
ran.write_text(ran.read_text() + "x" if ran.exists() else "x")
"""
KIN = """
from dataclasses import replace
from kpp_pyro.data.datasets import DATASETS
from kpp_pyro.writes.feed_forward import FeedForwardWrite
from kpp_pyro.writes.interface import WRITES
from models.registry import MODELS

class MyWrite(FeedForwardWrite):
    pass

WRITES["my_write"] = MyWrite
MODELS["my_machine"] = replace(MODELS["kanerva_machine"], like="kanerva_machine")
MODELS["my_blocks"] = replace(MODELS["kanerva_plus_plus"], settings=MODELS["kanerva_plus_plus"].settings | {"no_field"})
DATASETS["my_pictures"] = replace(DATASETS["digits"], like="cifar10")
"""


@pytest.fixture(autouse=True)
def _only_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with forgotten_after():
        yield


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PRIOR)
    return path


@pytest.fixture
def finished(mine: Path, tmp_path: Path) -> Path:
    """A run with the prior of a plug-in, as another process finds it."""
    flags = ["--plugin", mine, "--key-prior", "mine", "--write", "feed_forward"]
    folder = trained(tmp_path / "run", *changed(TINY, "--steps", "1", "--evaluate-every", "1", "--width", "16"), *flags)
    forget()
    return folder


def runs_of(plugin: Path) -> int:
    """How often a plug-in has run."""
    ran = plugin.with_suffix(".ran")
    return len(ran.read_text()) if ran.exists() else 0


def test_every_field_that_names_a_part_has_its_registry():
    fields = {name: field for part in Config.parts().values() for name, field in part.model_fields.items()}
    named = {name: names_of(field) for name, field in fields.items() if names_of(field)}
    assert named == {name: list(registry.parts) for name, registry in REGISTRIES.items() if name != "corruption"}


def test_a_plug_in_runs_once_and_its_parts_can_be_chosen(mine, monkeypatch):
    with pytest.raises(InputError, match=r"--key-prior: expected one of standard_normal, .* found 'mine'"):
        Config.preset(key_prior="mine")
    load_plugins(mine)
    monkeypatch.chdir(mine.parent)
    load_plugins("mine.py", mine)
    assert runs_of(mine) == 1
    assert Config.preset(key_prior="mine").program.key_prior == "mine"


def test_help_lists_the_parts_of_a_plug_in(mine):
    shown = run("svi_train.py", "--help", "--plugin", mine).stdout
    assert ",mine}" in "".join(shown.split())
    forget()
    assert ",mine}" not in "".join(run("svi_train.py", "--help").stdout.split())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("; x = 1", "expected a plug-in that registers a part, found none registered"),
        ("\nraise KeyError('y')", "expected a plug-in, found KeyError in line 2: 'y'"),
        ("\ndef f(:", "expected a plug-in, found SyntaxError in line 2: invalid syntax"),
        ("\nimport sys; sys.exit(0)", "expected a plug-in, found SystemExit in line 2: 0"),
        ("; import not_there", "expected a plug-in, found ModuleNotFoundError in line 1: No module named 'not_there'"),
        (
            "; KEY_PRIORS['vamp'] = KEY_PRIORS['flow']",
            "expected a new name for --key-prior, found vamp, which is taken",
        ),
        ("; del KEY_PRIORS['vamp']", "expected every --key-prior to stay, found vamp removed by the plug-in"),
        (
            "; KEY_PRIORS['../x'] = KEY_PRIORS['flow']",
            "--key-prior: expected a name of letters, digits and _, found '../x'",
        ),
        ("; KEY_PRIORS['vamp'] = 3", "expected a new name for --key-prior, found vamp, which is taken"),
        (
            "\nfrom dataclasses import replace\nfrom kpp_pyro.data.datasets import DATASETS\n"
            "DATASETS['a'] = replace(DATASETS['digits'], like='cifar')",
            "--dataset a: like: expected one of ",
        ),
        ("; KEY_PRIORS['x'] = 3", "--key-prior x: expected a class derived from KeyPrior, found 3"),
        (
            "\nclass A(KeyPrior): pass\nKEY_PRIORS['a'] = A",
            "--key-prior a: expected a class with all methods of KeyPrior, found one without forward",
        ),
        (
            "\nfrom models.registry import MODELS\nMODELS['a'] = KeyPrior",
            "--model a: expected an object of ModelKind, found <class 'kpp_pyro.priors.interface.KeyPrior'>",
        ),
        ("; KEY_PRIORS['a'] = KEY_PRIORS['flow']\n1 / 0", "expected a plug-in, found ZeroDivisionError in line 2: "),
    ],
)
def test_what_is_no_plug_in_is_refused_in_one_sentence_and_leaves_nothing(text, sentence, tmp_path):
    path, before = tmp_path / "bad.py", dict(KEY_PRIORS)
    path.write_text(f"from kpp_pyro.priors.interface import KEY_PRIORS, KeyPrior{text}")
    said = refused(run("svi_train.py", "--dry-run", "--plugin", path))
    assert said.startswith(f"error: {path}: {sentence}")
    assert before == KEY_PRIORS and list(KEY_PRIORS) == list(before)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("nowhere.py", "nowhere.py: expected a plug-in, found none (No such file or directory)"),
        ("nowhere", "error: nowhere: expected a plug-in, found neither a file whose name ends in .py nor a module"),
        ("a.b", "error: a.b: expected a plug-in, found neither a file whose name ends in .py nor a module"),
        (".", ": expected a plug-in, found a folder"),
        ("json", "error: json: expected a plug-in, found a module that was imported before it was given"),
        ("", "error: --plugin: expected a value, found ''"),
    ],
)
def test_a_plug_in_that_is_not_there_is_named(given, sentence, tmp_path):
    assert refused(run("evaluate.py", tmp_path, "--plugin", given, cwd=tmp_path)).endswith(sentence)


def test_a_run_finds_its_plug_in_again_from_any_folder(finished, mine, tmp_path, monkeypatch):
    (record,) = json.loads((finished / "config.json").read_text())["plugins"]
    assert record["plugin"] == str(mine)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(finished, "cpu").config.program.key_prior == "mine"
    forget()
    assert Config.read(finished, steps=2).program.key_prior == "mine"
    forget()
    assert run("svi_train.py", "--resume", finished, "--steps", "1", "--dry-run").returncode == 0
    assert runs_of(mine) == 4


def test_a_plug_in_that_the_user_has_never_given_does_not_run(finished, mine, tmp_path, monkeypatch):
    """The record of a run is data: its path and its sum may have been made up together."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of_another_user"))
    with pytest.raises(InputError) as error:
        load(finished, "cpu")
    read_it = f"found {mine}; read it, then give it by --plugin"
    assert str(error.value) == f"{finished / 'config.json'}: expected a plug-in that was given before, {read_it}"
    config = json.loads((finished / "config.json").read_text())
    config["plugins"][0]["plugin"] = "antigravity"
    (finished / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="expected the plug-in antigravity, installed or given before, found neither"):
        load(finished, "cpu")
    assert runs_of(mine) == 1 and "antigravity" not in sys.modules
    assert load(finished, "cpu", plugins=[mine]).config.program.key_prior == "mine"


def test_a_changed_plug_in_runs_if_it_is_given_and_is_noted(finished, mine, capsys):
    mine.write_text(f"{PRIOR}# changed")
    with pytest.raises(InputError) as error:
        load(finished, "cpu")
    assert str(error.value) == (
        f"{finished / 'config.json'}: expected the plug-in {mine} as the run was trained with it, "
        f"found a changed file; --plugin {mine} runs it as it is"
    )
    assert runs_of(mine) == 1
    load(finished, "cpu", plugins=[mine])
    note = f"note: {finished / 'config.json'}: the plug-in {mine} has changed since the run was trained\n"
    assert capsys.readouterr().err == note


def test_a_plug_in_that_has_moved_is_missed_and_can_be_given(finished, mine, tmp_path, capsys):
    moved = mine.rename(tmp_path / "moved.py")
    sentence = refused(run("draw_figures.py", finished))
    missing = f"expected the plug-in {mine}, found no such file; --plugin gives it, wherever it is"
    assert sentence == f"error: {finished / 'config.json'}: {missing}"
    capsys.readouterr()
    assert load(finished, "cpu", plugins=[moved]).config.program.key_prior == "mine"
    assert capsys.readouterr().err == ""  # the same content


def test_a_renamed_plug_in_that_has_changed_stands_in_if_it_has_the_parts(finished, mine, tmp_path, capsys):
    renamed = mine.rename(tmp_path / "renamed.py")
    renamed.write_text(f"{PRIOR}# changed")
    assert load(finished, "cpu", plugins=renamed).config.program.key_prior == "mine"
    note = f"the parts of the plug-in {mine} are those of other plug-ins\n"
    assert capsys.readouterr().err == f"note: {finished / 'config.json'}: {note}"
    forget()
    renamed.write_text(PRIOR.replace('"mine"', '"other"'))
    with pytest.raises(InputError, match="found no such file; --plugin gives it"):
        load(finished, "cpu", plugins=renamed)


def test_a_list_of_plug_ins_that_cannot_be_written_is_noted_once(mine, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    load_plugins(mine)
    load_plugins(mine)
    expected = f"note: {mine}: a run will not find this plug-in again without --plugin, since /dev/null/kpp-pyro"
    assert capsys.readouterr().err == f"{expected} cannot be written (Not a directory)\n"
    assert "mine" in KEY_PRIORS


def test_an_error_while_plug_ins_are_in_use_keeps_its_traceback_and_names_them(tmp_path):
    faulty = tmp_path / "faulty.py"
    faulty.write_text(f"{PRIOR}\nMine.forward = lambda self: 1 // 0\n")
    flags = ["--plugin", faulty, "--key-prior", "mine", "--write", "feed_forward", "--width", "16"]
    with pytest.raises(ZeroDivisionError) as error:
        run("svi_train.py", *flags, "--out", tmp_path / "run")
    assert error.value.__notes__ == [f"note: plug-ins are in use, and the error may be theirs: {faulty}"]


@pytest.mark.parametrize(
    ("loader", "found"), [("lambda _: None", "None"), ("lambda _: 1 // 0", "ZeroDivisionError: integer division .*")]
)
def test_a_loader_that_returns_nothing_or_fails_is_refused(loader, found, tmp_path):
    path = tmp_path / "bad.py"
    registry = "from kpp_pyro.data.datasets import DATASETS, DataSource"
    path.write_text(f"{registry}\nDATASETS['bad'] = DataSource({loader})")
    sentence = refused(run("svi_train.py", "--plugin", path, "--dataset", "bad", "--out", tmp_path / "run"))
    assert re.fullmatch(f"error: --dataset bad: expected ImageSplits from its loader, found {found}", sentence)
    assert not (tmp_path / "run").exists()


def test_a_packed_run_names_its_plug_in_without_the_folders_of_this_machine(finished, mine, tmp_path, monkeypatch):
    pack(finished, tmp_path / "packed")
    (record,) = json.loads((tmp_path / "packed" / "config.json").read_text())["plugins"]
    assert record["plugin"] == "mine.py"
    forget()
    monkeypatch.chdir(mine.parent)
    with pytest.raises(InputError, match=r"expected the plug-in mine\.py, found no such file; --plugin gives it"):
        Config.read(tmp_path / "packed")


def test_a_run_records_only_plug_ins_that_it_uses(mine, tmp_path):
    flags = changed(TINY, "--steps", "1", "--evaluate-every", "1", "--width", "16")
    folder = trained(tmp_path / "run", "--plugin", mine, *flags)
    assert "plugins" not in json.loads((folder / "config.json").read_text())


def test_a_module_is_found_by_its_name_and_so_again(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(PRIOR)
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins("my_parts")
    (record,) = plugins.records_of({"key_prior": "mine"})
    assert record.plugin == "my_parts"
    forget()
    del sys.modules["my_parts"]
    plugins.load_recorded(tmp_path, [record], {"program": {"key_prior": "mine"}})
    assert "mine" in KEY_PRIORS
    forget()
    del sys.modules["my_parts"]
    (tmp_path / "my_parts.py").unlink()
    importlib.invalidate_caches()
    found = "found neither a file whose name ends in .py nor a module; --plugin gives another file or module"
    with pytest.raises(InputError, match=f"^{tmp_path}: my_parts: expected a plug-in, {found}"):
        plugins.load_recorded(tmp_path, [record], {"program": {"key_prior": "mine"}})


def test_an_installed_plug_in_is_loaded_before_a_configuration_is_made(tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(PRIOR)
    monkeypatch.syspath_prepend(tmp_path)
    waiting = [EntryPoint("mine", "my_package", plugins.GROUP)]
    monkeypatch.setattr(plugins, "_entry_points", lambda: waiting)
    assert Config.preset(key_prior="mine").program.key_prior == "mine"
    assert not waiting
    del sys.modules["my_package"]
    waiting.append(EntryPoint("broken", "not_there.parts", plugins.GROUP))
    with pytest.raises(
        InputError, match=r"^not_there.parts: expected a plug-in, .*; it is a plug-in of the installed "
    ):
        Config()


def test_a_part_has_the_presets_of_what_it_is_like(tmp_path):
    (tmp_path / "kin.py").write_text(KIN)
    load_plugins(tmp_path / "kin.py")
    assert Config.preset(write="my_write").memory == Config.preset(write="feed_forward").memory.model_copy(
        update={"write": "my_write"}
    )
    machine = Config.preset(model="my_machine")
    assert machine.program.latent_context == "image_and_read" and machine.training.kl_memory_weight == 0
    pictures = Config.preset("my_pictures")
    assert pictures.program.likelihood == "discretized_logistic" and pictures.memory.read_size == 800
    assert Config.preset(model="my_blocks").name == "my_blocks-allocate"
    assert (machine.name, Config.preset(write="my_write").name) == ("my_machine", "my_write")
