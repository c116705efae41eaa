"""The page to explore a memory by hand, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest
from PIL import Image

import experiments.explore
from kpp_pyro.data import load_dataset
from tests.experiments.running import TINY, changed, command, refused, run, trained
from tests.waiting import HANGS, free_port


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
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the server's temporary files."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def server(folder: Path, kept: Path, browser: Any) -> Iterator[subprocess.Popen[str]]:
    """The script as a program; `browser` first, so that it is not started where it cannot be tested."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_SERVER_NAME": "0.0.0.0", "TMPDIR": str(kept)}
    environment |= {"ALL_PROXY": "socks5://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # proxies that are none
    with subprocess.Popen(
        command("explore.py", folder, "--port", free_port()),
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


@contextmanager
def opened(browser: Any, address: str, **settings: object) -> Iterator[Any]:
    """The page, open; at the end, nothing was asked of anybody else, and nothing went wrong in it."""
    page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **settings})
    page.set_default_timeout(1000 * HANGS)
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


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with opened(browser, address) as page:
        yield page


def source(page: Any, place: str) -> str:
    return page.locator(f"{place} img").first.get_attribute("src")


def wait_for_another(page: Any, place: str, before: str, **options: Any) -> None:
    changed = "([place, before]) => document.querySelector(place + ' img').src !== before"
    page.wait_for_function(changed, arg=[place, before], **options)


def press(page: Any, place: str, x: float, y: float, changed: str) -> None:
    """Press a picture at shares of its width and height, until another one changes: a loading page does not listen."""
    from playwright.sync_api import TimeoutError

    before, picture = source(page, changed), page.locator(f"{place} img").first
    for _ in range(HANGS // 4):
        box = picture.bounding_box()
        picture.click(position={"x": x * box["width"], "y": y * box["height"]})
        try:
            wait_for_another(page, changed, before, timeout=4_000)
            return
        except TimeoutError:
            continue
    raise AssertionError(f"pressing {place} changes nothing")


def test_moving_a_slider_moves_the_key_and_reads_another_block(page):
    memory, read = source(page, "#memory"), source(page, "#read")
    page.locator("#x input[type=range]").press("End")
    wait_for_another(page, "#read", read)
    assert source(page, "#memory") != memory
    assert page.get_by_text("key +3.72").count() == 1


def test_pressing_the_memory_moves_the_key_and_its_sliders(page):
    press(page, "#memory", 0.48, 0.4, changed="#read")
    assert float(page.locator("#x input[type=range]").input_value()) > 90
    assert float(page.locator("#y input[type=range]").input_value()) > 70


def test_an_image_is_chosen_damaged_and_recalled_step_by_step(page):
    read = source(page, "#read")
    press(page, "#episode", 0.98, 0.02, changed="#episode")
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


# Contrast (WCAG 2.2, AA) of each visible text, and of each value in a field, with what is behind it.
CONTRAST = """() => {
    const colour = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
    const over = (top, below) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]);
    const linear = (level) => level <= 10 ? level / 255 / 12.92 : ((level / 255 + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const found = [];
    const measure = (element, text) => {
        const box = element.getBoundingClientRect();
        const visible = element.checkVisibility({opacityProperty: true, visibilityProperty: true});
        if (!visible || box.width < 2 || box.height < 2) return;
        const around = [];
        for (let parent = element; parent; parent = parent.parentElement) around.unshift(getComputedStyle(parent));
        let ground = [255, 255, 255], opacity = 1;
        for (const style of around) {
            ground = over(colour(style.backgroundColor), ground);
            opacity *= Number(style.opacity);
        }
        const [r, g, b, a] = colour(getComputedStyle(element).color);
        const drawn = over([r, g, b, a * opacity], ground);
        found.push([ratio(luminance(drawn), luminance(ground)), text]);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const {data, parentElement} = texts.currentNode;
        if (data.trim() && !parentElement.closest('script, style, noscript')) measure(parentElement, data);
    }
    document.querySelectorAll('input[type=number], input[role]').forEach((field) => measure(field, field.value));
    return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_stands_out_from_its_background(browser, address, theme):
    with opened(browser, address, color_scheme=theme, reduced_motion="reduce") as page:
        page.click("#read-once")
        page.locator("#strip img").nth(2).wait_for()
        page.get_by_label("Corruption").click()  # shows its options
        page.get_by_role("option").first.wait_for()
        page.wait_for_function("document.getAnimations().every((fading) => fading.playState === 'finished')")
        found = page.evaluate(CONTRAST)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    texts = {text.strip() for _, text in found}
    assert {"the key", "image 1", "read 1", "Episode of the test set", "100", "speckle", "Write mine …"} <= texts
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


FOCUSED = """() => {
    const control = document.activeElement, {outlineStyle, outlineWidth} = getComputedStyle(control);
    const name = control.ariaLabel || control.labels?.[0]?.innerText || control.innerText;
    return [name, outlineStyle === 'solid' && parseFloat(outlineWidth) >= 2];
}"""
SLIDERS = ("Episode of the test set", "Image", "x, % across", "y, % down", "scale, %", "Strength, share of pixels")
CONTROLS = ["Corruption", "Corrupt", "Read once", "Start again", "Write mine …", "Find mine …"]
CONTROLS += [f"{kind} for {label}" for label in SLIDERS for kind in ("number input", "range slider")]
CONTROLS += ["Dark on light: invert what is uploaded"]


def test_every_control_is_reached_by_tab_and_shows_it(page):
    reached = {}
    for _ in CONTROLS:
        page.keyboard.press("Tab")
        name, shown = page.evaluate(FOCUSED)
        reached[name] = shown
    assert reached == dict.fromkeys(CONTROLS, True)


def test_an_image_is_chosen_by_keys(page):
    episode = source(page, "#episode")
    page.locator("#image input[type=range]").press("ArrowRight")
    wait_for_another(page, "#episode", episode)
    assert page.get_by_alt_text(re.compile("; chosen: image 2$")).count() == 1


def test_a_phone_need_not_scroll_sideways(browser, address):
    with opened(browser, address, viewport={"width": 375, "height": 700}) as page:
        assert page.evaluate("document.scrollingElement.scrollWidth") == 375


def upload(page: Any, button: str, *files: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(list(files))


def test_own_pictures_are_written_explored_and_found_and_no_copy_of_them_is_kept(page, kept, tmp_path):
    digits = load_dataset("digits", Path("nowhere")).test.images[:40, 0]
    files = [tmp_path / f"{number}.{('png', 'tiff', 'bmp')[number % 3]}" for number in range(40)]
    for file, digit in zip(files, digits, strict=True):
        Image.fromarray(digit.numpy()).save(file)
    (tmp_path / "bad.png").write_text("no picture")
    memory = source(page, "#memory")

    upload(page, "#find", files[0])
    page.get_by_text("expected pictures to search, found none").wait_for()
    upload(page, "#write", files[0], tmp_path / "bad.png")
    page.get_by_text("bad.png: expected a picture, found a file that cannot be decoded").wait_for()
    assert source(page, "#memory") == memory

    upload(page, "#write", *files)
    page.get_by_text("Written: 40. Now 40 pictures in 2 memories of 32").wait_for()
    wait_for_another(page, "#memory", memory)
    assert page.get_by_alt_text("image 1, 0.png, as written", exact=True).count() == 1
    page.locator("#which input[type=range]").press("End")
    page.get_by_alt_text(re.compile(r"^image 1, \d+\.\w+, as written$")).wait_for()

    upload(page, "#find", files[7])
    page.locator("#found img").nth(5).wait_for()
    assert page.inner_text("#found p").count("probability") >= 1
    assert page.get_by_alt_text(re.compile(r"^match: \d+\.\w+, read from memory \d, block \d+$")).count() == 5
    page.get_by_label("Test set").check()
    wait_for_another(page, "#memory", source(page, "#memory"))
    assert [path for path in kept.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_only_this_computer_is_served_whatever_gradio_is_told(address):
    port = urlsplit(address).port
    socket.create_connection(("127.0.0.1", port), timeout=HANGS).close()
    for other in ("127.0.0.2", "::1"):
        with pytest.raises(OSError):
            socket.create_connection((other, port), timeout=5)


def test_a_port_that_is_taken_gets_one_sentence(folder, address):
    port = urlsplit(address).port
    assert str(port) in refused(run("explore.py", folder, "--port", port))


def test_ctrl_c_ends_it_with_a_page_still_open(browser, server, address, kept):  # the last one: the others need it
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("#strip img")
    server.send_signal(signal.SIGINT)
    output, errors = server.communicate(timeout=HANGS)
    page.close()
    assert server.returncode == 0
    assert (output, errors) == ("", "")
    assert list(kept.iterdir()) == []


def test_gradio_is_imported_without_proxies_even_of_a_kind_for_which_a_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    monkeypatch.setattr(os, "environ", {"ALL_PROXY": "socks5://host:1", "https_proxy": "ftp://host", "PATH": "/bin"})
    experiments.explore._require_gradio("uploads")
    assert {name for name in os.environ if name.lower().endswith("_proxy")} == {"no_proxy"}
    assert os.environ["GRADIO_TEMP_DIR"] == "uploads"
    assert os.environ["no_proxy"] == "127.0.0.1" and os.environ["PATH"] == "/bin"


def test_without_gradio_a_sentence_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert 'pip install -e ".[explore]"' in refused(run("explore.py", folder))


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_that_cannot_be_gets_one_sentence(folder, port):
    assert str(port) in refused(run("explore.py", folder, "--port", port))


def test_a_collection_that_is_none_gets_one_sentence(folder, tmp_path, browser):
    assert str(tmp_path) in refused(run("explore.py", folder, "--collection", tmp_path))
