"""The page to explore a memory by hand: what its controls mean, and the page itself in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest
import torch

import experiments.explore
from experiments.shared.explore_session import Explorer, Session
from inference.trained_memory import TrainedMemory
from kpp_pyro.errors import InputError
from tests.experiments.running import TINY, changed, command, refused, run, trained
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


# The page.


def unavailable(reason: str) -> NoReturn:
    if os.environ.get("KPP_REQUIRE_BROWSER") == "1":
        pytest.fail(f"KPP_REQUIRE_BROWSER=1, and {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Playwright's own chromium if it is installed, or else the system's."""
    for needed in ("gradio", "playwright"):
        if find_spec(needed) is None:
            unavailable(f"{needed} is not installed")
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if Path(own).exists() else next(filter(None, map(shutil.which, names)), None)
        if path is None:
            unavailable("no chromium and no google-chrome is installed")
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained, but has neither figures nor scores."""
    return trained(tmp_path_factory.mktemp("runs") / "digits", *changed(TINY, "--evaluate-every", "6"))


@pytest.fixture(scope="module")
def server(folder: Path, browser: Any) -> Iterator[subprocess.Popen[str]]:
    """The script as a program; `browser` first, so that it is not started where it cannot be tested."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_SERVER_NAME": "0.0.0.0"}
    environment |= {"ALL_PROXY": "socks5://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # proxies that are none
    with subprocess.Popen(
        command("explore.py", folder, "--port", port),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None and server.stderr is not None
    line = server.stdout.readline()
    found = re.match(r"http://127\.0\.0\.1:\d+/", line)
    assert found, line or server.stderr.read()
    return found[0]


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, open; at the end, nothing was asked of anybody else, and nothing went wrong in it."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(90_000)
    hosts, mistakes = set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.on("console", lambda message: mistakes.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#strip img")
    yield page
    page.close()
    assert hosts - {None} == {"127.0.0.1"}  # pictures are data, and of no host
    assert mistakes == []


def source(page: Any, place: str) -> str:
    return page.locator(f"{place} img").first.get_attribute("src")


def wait_for_another(page: Any, place: str, before: str) -> None:
    changed = "([place, before]) => document.querySelector(place + ' img').src !== before"
    page.wait_for_function(changed, arg=[place, before])


def press(page: Any, place: str, x: float, y: float) -> None:
    """Press a picture at shares of its width and height."""
    box = page.locator(f"{place} img").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def test_moving_a_slider_moves_the_key_and_reads_another_block(page):
    memory, read = source(page, "#memory"), source(page, "#read")
    page.locator("#x input[type=range]").press("End")
    wait_for_another(page, "#read", read)
    assert source(page, "#memory") != memory
    assert page.get_by_text("key +3.72").count() == 1


def test_pressing_the_memory_moves_the_key_and_its_sliders(page):
    read = source(page, "#read")
    press(page, "#memory", 0.48, 0.4)
    wait_for_another(page, "#read", read)
    assert float(page.locator("#x input[type=range]").input_value()) > 90
    assert float(page.locator("#y input[type=range]").input_value()) > 70


def test_an_image_is_chosen_damaged_and_recalled_step_by_step(page):
    episode, read = source(page, "#episode"), source(page, "#read")
    press(page, "#episode", 0.99, 0.01)
    wait_for_another(page, "#episode", episode)
    page.get_by_text("image 8", exact=True).wait_for()  # the last of the first row
    assert page.locator("#image input[type=range]").input_value() == "8"
    assert source(page, "#read") != read

    shown = page.locator("#strip img")
    assert shown.count() == 2
    assert shown.nth(0).get_attribute("src") == shown.nth(1).get_attribute("src")
    original = shown.nth(0).get_attribute("src")
    page.click("#corrupt")
    page.wait_for_function("src => document.querySelectorAll('#strip img')[1].src !== src", arg=original)
    assert shown.nth(0).get_attribute("src") == original
    for reads in (1, 2):
        page.click("#read-once")
        shown.nth(1 + reads).wait_for()
    said = re.findall(r"^(.+)\n(\d+) wrong$", page.inner_text("#strip"), flags=re.MULTILINE)
    assert [name for name, _ in said] == ["cue", "read 1", "read 2"]
    assert int(said[0][1]) > 0
    page.click("#start-again")
    shown.nth(2).wait_for(state="detached")
    assert shown.count() == 2


def test_an_episode_is_opened(page):
    episode, memory = source(page, "#episode"), source(page, "#memory")
    page.locator("#which input[type=range]").press("End")
    wait_for_another(page, "#episode", episode)
    assert source(page, "#memory") != memory


def test_only_this_computer_is_served_whatever_gradio_is_told(address):
    port = urlsplit(address).port
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    for other in ("127.0.0.2", "::1"):
        with pytest.raises(OSError):
            socket.create_connection((other, port), timeout=5)


def test_a_port_that_is_taken_gets_one_sentence(folder, address):
    port = urlsplit(address).port
    assert str(port) in refused(run("explore.py", folder, "--port", port))


def test_ctrl_c_ends_it_with_a_page_still_open(browser, server, address):  # the last one: the others need it
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("#strip img")
    server.send_signal(signal.SIGINT)
    output, errors = server.communicate(timeout=60)
    page.close()
    assert server.returncode == 0
    assert (output, errors) == ("", "")


def test_gradio_is_imported_without_proxies_even_of_a_kind_for_which_a_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    monkeypatch.setattr(os, "environ", {"ALL_PROXY": "socks5://host:1", "https_proxy": "ftp://host", "PATH": "/bin"})
    experiments.explore._require_gradio()
    assert {name for name in os.environ if name.lower().endswith("_proxy")} == {"no_proxy"}
    assert os.environ["no_proxy"] == "127.0.0.1" and os.environ["PATH"] == "/bin"


def test_without_gradio_a_sentence_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert 'pip install -e ".[explore]"' in refused(run("explore.py", folder))


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_that_cannot_be_gets_one_sentence(folder, port):
    assert str(port) in refused(run("explore.py", folder, "--port", port))
