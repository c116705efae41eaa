"""The figure of costs against bits of memory: bits and units of reports, and curves that are kept and drawn again."""

from __future__ import annotations

import copy
import json
import math

import pytest

from kpp_pyro.errors import InputError
from tests.experiments.running import script_of_docs
from tests.kpp_pyro.files.reports import REPORTS


@pytest.fixture
def script():
    return script_of_docs("draw_memory_bits")


@pytest.fixture
def report(tmp_path):
    def write(name, nats=-4.0, trustworthy=True, **settings):
        content = copy.deepcopy(REPORTS["evaluate"])
        content["settings"] |= {"image_shape": [1, 16, 16], "likelihood": "bernoulli", **settings}
        content["scores"]["own"] |= {"log_likelihood_nats_per_image": nats, "trustworthy": trustworthy}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path / f"{name}.json"

    return write


def curves_of(script, **changes):
    of_digits = {"dataset": "digits", "image_shape": (1, 16, 16), "binary": True}
    return script.Curves(**{**of_digits, **changes}, baselines={}, models={}, files={"PNG": 30.0}, environment={})


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"memory_scalars": 3200, "episode_length": 32}, 3200),
        ({"memory_scalars": 3200, "episode_length": 32, "content_bits": 8}, 800 + 32),
        ({"memory_scalars": 3200, "episode_length": 32, "content_bits": 1}, 100 + 32),
        ({"memory_scalars": 320, "episode_length": 32, "signs_per_scalar": 16}, 160),
        ({"memory_scalars": 96, "episode_length": 64, "signs_per_scalar": 4}, 6),
        ({"memory_scalars": 1000, "episode_length": 32}, 1000),
        ({"memory_scalars": 0, "episode_length": 1}, 0),
    ],
)
def test_bits_of_scalars_of_rounded_ones_and_of_signs(script, settings, bits):
    assert script.memory_bits({"content_bits": None, **settings}) == bits


def test_reports_of_one_kind_of_memory_are_a_curve_and_one_of_high_k_hat_is_a_bound(script, report):
    curves = curves_of(script)
    rounded = {"content_bits": 8, "encoder_steps": 4}
    paths = [
        report("large", -4.0, **rounded),
        report("small", -9.0, trustworthy=False, **rounded, memory_scalars=320),
        report("rival", -80.0, model="kanerva_machine"),
        report("long", -6.0, episode_length=64, content_bits=1),
        report("levels", -30.0, signs_per_scalar=16, signs_per_latent=2),
    ]
    for path in [*paths, paths[0]]:  # the last one is there already
        script.add_report(curves, path)
    found = {
        name: [(point.memory_bits, point.cost, point.is_bound) for point in points]
        for name, points in curves.models.items()
    }
    assert found == {
        "allocate, 4 encoder steps, 8 bits a scalar, T = 32": [(112, 9.0, True), (832, 4.0, False)],
        "kanerva_machine, T = 32": [(3200, 80.0, False)],
        "allocate, 1 bit a scalar, T = 64": [(82, 6.0, False)],
        "allocate, 16 signs to a scalar, latents of 4 levels, T = 32": [(1600, 30.0, False)],
    }
    assert script.table(curves).splitlines()[2:] == [
        "| allocate, 4 encoder steps, 8 bits a scalar, T = 32 | 112 | ≤ 9.00 ± 0.10 | 64 |",
        "| allocate, 4 encoder steps, 8 bits a scalar, T = 32 | 832 | 4.00 ± 0.10 | 64 |",
        "| kanerva_machine, T = 32 | 3,200 | 80.00 ± 0.10 | 64 |",
        "| allocate, 1 bit a scalar, T = 64 | 82 | 6.00 ± 0.10 | 64 |",
        "| allocate, 16 signs to a scalar, latents of 4 levels, T = 32 | 1,600 | 30.00 ± 0.10 | 64 |",
        "| PNG, lossless | 30 | 0 | |",
    ]


def test_costs_of_grey_levels_are_bits_per_dimension_by_their_likelihood(script, report):
    shape = (3, 4, 4)
    curves = curves_of(script, image_shape=shape, binary=False)
    colour = {"image_shape": list(shape), "binarization": "none", "likelihood": "local_autoregressive"}
    script.add_report(curves, report("colour", -48 * 3 * math.log(2), **colour))
    ((name, (point,)),) = curves.models.items()
    assert name == "allocate, T = 32, local autoregressive"
    assert point.cost == pytest.approx(3)
    assert point.standard_error == pytest.approx(0.1 / (48 * math.log(2)))


@pytest.mark.parametrize(
    "changes",
    [{"dataset": "mnist"}, {"split": "validation"}, {"image_shape": [1, 28, 28]}, {"binarization": "none"}],
)
def test_a_report_of_other_images_is_refused_by_name(script, report, changes):
    with pytest.raises(InputError, match=r"other\.json: expected test images of digits"):
        script.add_report(curves_of(script), report("other", **changes))


def run_script(script, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["draw_memory_bits.py", *map(str, arguments)])
    return script.main()


def test_curves_are_kept_and_drawn_again_with_another_report(script, report, monkeypatch, tmp_path, capsys):
    baselines = script_of_docs("memory_baselines")
    for name, value in {"BITS": (6,), "COMPONENTS": {2: (4, 16)}, "GRIDS": ((2, 2),), "TRAINING_IMAGES": 300}.items():
        monkeypatch.setattr(baselines, name, value)
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    assert run_script(script, monkeypatch, report("a"), "--dataset", "digits", "--limit", 40, "--out", first) == 0
    before = capsys.readouterr().out
    assert "| principal components, 6 bits a component | 24 |" in before
    vae = report("b", -90.0, trustworthy=False, model="vae", memory_scalars=0)
    kept = first.with_suffix(".json")
    assert run_script(script, monkeypatch, vae, "--curves", kept, "--out", second) == 0
    added = set(capsys.readouterr().out.splitlines()) - set(before.splitlines())
    assert added == {"| vae, T = 32 | 0 | ≤ 90.00 ± 0.10 | 64 |"}
    contents = [json.loads(path.with_suffix(".json").read_text()) for path in (first, second)]
    assert contents[0]["baselines"] == contents[1]["baselines"]
    assert {point["images"] for points in contents[0]["baselines"].values() for point in points} == {40}
    assert all(path.stat().st_size > 10_000 for path in (first, second))


def test_a_hollow_point_is_a_bound_and_a_vae_is_a_line(script, report, tmp_path, monkeypatch):
    curves, drawn = curves_of(script), []
    for path in (
        report("a"),
        report("b", trustworthy=False, memory_scalars=96),
        report("c", model="vae", memory_scalars=0),
    ):
        script.add_report(curves, path)
    monkeypatch.setattr(script, "save", lambda figure, path: drawn.append(figure))
    script.draw(curves, tmp_path / "figure.png")
    (axis,) = drawn[0].axes
    points = {line.get_xdata()[0]: line.get_fillstyle() for line in axis.lines if len(line.get_xdata()) == 1}
    assert points == {3200: "full", 96: "none"}
    assert [4.0, 4.0] in [list(line.get_ydata()) for line in axis.lines if list(line.get_xdata()) == [0, 1]]
    assert [30.0, 30.0] in [list(line.get_xdata()) for line in axis.lines]  # the file


@pytest.mark.parametrize("flags", [[], ["--dataset", "digits", "--curves", "a.json"]])
def test_baselines_are_of_a_data_set_or_of_earlier_curves(script, monkeypatch, flags):
    with pytest.raises(InputError, match=r"--dataset: expected it or --curves, found (neither|both)"):
        run_script(script, monkeypatch, *flags)


def test_what_is_no_file_of_curves_or_no_report_is_refused_by_name(script, monkeypatch, report, tmp_path):
    path = report("a")
    with pytest.raises(InputError, match=r"a\.json: expected the curves of draw_memory_bits\.py, found no dataset"):
        run_script(script, monkeypatch, "--curves", path)
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(InputError, match=r"empty\.json: expected a report of evaluate\.py, found no settings"):
        script.add_report(curves_of(script), tmp_path / "empty.json")
