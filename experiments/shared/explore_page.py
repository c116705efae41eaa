"""The page of `explore.py`: its layout, and what each control changes on it.

Images are PNG data inside the HTML: a change is one response of the server, and leaves no file behind.
"""

from __future__ import annotations

import base64
import html
from dataclasses import replace
from typing import Any

import gradio as gr
from torch import Tensor

from experiments.shared.explore_session import Explorer, Percent, Session
from kpp_pyro.corruptions import CORRUPTIONS
from kpp_pyro.distances import psnr_db
from kpp_pyro.errors import InputError
from kpp_pyro.plots.screen import Colour, Frame, Grid, Picture, enlarged, pictures_of, signed, to_png

_KEY: Colour = (255, 111, 0)  # the block that the sliders point at
_OWN: Colour = (0, 150, 136)  # the chosen image and its own block
_OTHERS: Colour = (140, 140, 140)

_EPISODE_SIZE, _MEMORY_SIZE = (300, 420), (290, 520)  # (height, width) at most, in screen pixels
_LARGE, _SMALL = 112, 84  # height of a single image, and of one in the strip
_MOST_CHANNELS = 8
_LINE = 2

_MOST_STRENGTH = 3.0  # on the slider, of a corruption without a largest strength

THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="gray",
    spacing_size="sm",
    text_size="sm",
    font=["system-ui", "sans-serif"],  # of the system: the page loads nothing from the internet
    font_mono=["ui-monospace", "monospace"],
).set(layout_gap="10px", block_padding="8px 10px", slider_color="*primary_500")

CSS = f"""
.gradio-container {{ max-width: 1240px !important; margin: 0 auto !important; padding: 12px 16px !important }}
.explore .html-container {{ padding: 0 !important }}
.explore h1 {{ font-size: 1.35rem; margin: 0 }}
.explore h2 {{ font-size: 1.02rem; margin: 0 0 2px }}
.explore p {{ margin: 0; line-height: 1.4 }}
.explore img {{ display: block; max-width: 100%; height: auto; margin: 0 }}
.explore figure {{ margin: 0 }}
.explore figcaption {{ font-size: .8rem; line-height: 1.35; margin: 3px 0 8px; opacity: .85 }}
.explore .strip {{ display: flex; flex-wrap: wrap; gap: 10px; min-height: 130px }}
.explore .strip figure {{ width: min-content }}
.explore .strip img {{ max-width: none }}
.explore .number {{ font-variant-numeric: tabular-nums; white-space: nowrap; opacity: .85 }}
.explore .key {{ color: rgb{_KEY}; font-weight: 600 }}
.explore .own {{ color: rgb{_OWN}; font-weight: 600 }}
.tight {{ gap: 2px !important }}
.explore .place img {{ cursor: crosshair; touch-action: none; user-select: none }}
.explore .choice img {{ cursor: pointer }}
"""

# Sends the place where an image was pressed or dragged to, in shares of its width and height.
_POINTER = """
const send = (event) => {
    const picture = event.target.closest('img');
    if (!picture || event.buttons !== 1) return;
    event.preventDefault();
    const box = picture.getBoundingClientRect();
    const share = (value) => Math.min(Math.max(value, 0), 1);
    const x = share((event.clientX - box.left) / box.width), y = share((event.clientY - box.top) / box.height);
    trigger('input', {x, y});
};
element.addEventListener('pointerdown', send);
element.addEventListener('pointermove', send);
"""


class View:
    """Renders a session as HTML.

    Args:
        explorer: the memory and its episodes.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        layout, (_, *size) = explorer.addressing.layout, explorer.trained.image_shape
        length = len(explorer.episodes[0])
        self.images = Grid.fitting(length, (size[0], size[1]), _EPISODE_SIZE)
        self.channels = min(layout.channels, _MOST_CHANNELS)
        self.memory = Grid.fitting(self.channels, (layout.height, layout.width), _MEMORY_SIZE)

    def share_shown(self) -> str:
        """Which channels of the memory are shown, if not all."""
        channels = self.explorer.addressing.layout.channels
        return "" if self.channels == channels else f" (the first {self.channels} of {channels})"

    def episode(self, session: Session) -> str:
        """All images of the episode, the chosen one in a frame."""
        picture = self.images.arrange(pictures_of(session.episode))
        whole = (0, 0, self.images.width, self.images.height)
        self.images.frame(picture, [Frame(whole, _OWN, line=3)], tiles=[session.chosen])
        return _image(picture, "The images of the episode")

    def at_key(self, session: Session, percent: Percent) -> tuple[str, ...]:
        """The memory with its boxes; the read and the chosen image; the key's three numbers."""
        read = self.explorer.read(session, percent)
        numbers = (f'<span class="number">key {number:+.2f}</span>' for number in self.explorer.numbers(percent))
        return self._memory(session, percent), self._read(session, read, percent), *numbers

    def strip(self, session: Session) -> str:
        """The recall: the original, the cue and each read, with their errors."""
        original = session.episode[session.chosen]
        steps = [("cue", session.cue.images), *((f"read {n}", read) for n, read in enumerate(session.reads, 1))]
        shown = [_figure(original, _SMALL, "<b>original</b>")]
        for name, images in steps:
            image = images[session.chosen]
            shown.append(_figure(image, _SMALL, f"<b>{name}</b><br>{_error(session, image, 'wrong')}"))
        return f'<div class="strip">{"".join(shown)}</div>'

    def _memory(self, session: Session, percent: Percent) -> str:
        addressing = self.explorer.addressing
        picture = self.memory.arrange(signed(session.memory.value[: self.channels]))
        own = addressing.boxes(session.keys).tolist()  # (T, R, 4)
        key = addressing.boxes(self.explorer.key(percent))[0, :1].tolist()  # all reads are of the same place
        frames = [Frame(box, _OTHERS, line=1, opacity=0.5) for boxes in own for box in boxes]
        frames += [
            Frame(box, _OWN, line=2 * _LINE) for box in own[session.chosen]
        ]  # wider than the key's, to be visible under it
        self.memory.frame(picture, [*frames, *(Frame(box, _KEY, line=_LINE) for box in key)])
        return _image(picture, "The channels of the memory, with the blocks that keys read")

    def _read(self, session: Session, read: Tensor, percent: Percent) -> str:
        at = self.explorer.images_at(session, percent)
        names = ", ".join(str(image + 1) for image in at)
        whose = f"the block of image{'s' * (len(at) > 1)} {names}" if at else "no image’s own block"
        wrong = _error(session, read, f"pixels differ from image {session.chosen + 1}")
        figures = (
            _figure(read, _LARGE, f'<span class="key">read</span><br>{whose}<br>{wrong}'),
            _figure(session.episode[session.chosen], _LARGE, f'<span class="own">image {session.chosen + 1}</span>'),
        )
        return f'<div class="strip">{"".join(figures)}</div>'


def _error(session: Session, image: Tensor, differ: str) -> str:
    """The error of an image against the chosen one: how many pixels `differ`, in words, or the PSNR."""
    error = session.error(image)
    if session.distance.binary:
        return f"{error:.0f} {differ}"
    return f"PSNR {psnr_db(error):.1f} dB" if error else "exact"


def build_page(explorer: Explorer, name: str) -> gr.Blocks:
    """Lay out the page and connect its controls.

    Args:
        explorer: the memory and its episodes.
        name: of the run, for the title.
    """
    view = View(explorer)
    first = explorer.open(0)
    start = explorer.own_key(first)
    memory_now, read_now, *numbers_now = view.at_key(first, start)
    length, episodes = len(first.episode), len(explorer.episodes)
    with gr.Blocks(title=f"Explore {name}", analytics_enabled=False, fill_width=True) as page:
        session = gr.State(first)
        _text(
            f"<h1>Explore a memory: {html.escape(name)}</h1><p>An episode of {length} images was written into one "
            "memory. A key points at a block of it, and the block is decoded into an image.</p>"
        )
        with gr.Row():
            with gr.Column(scale=43, min_width=380):
                _text("<h2>1. The episode</h2><p>Choose an image: the key goes to its block.</p>")
                which = _slider(1, max(episodes, 2), 1, 1, "Episode of the test set", "which", visible=episodes > 1)
                pictures = _pictures(view.episode(first), "episode", "choice")
                image = _slider(1, max(length, 2), 1, 1, "Image", "image", visible=length > 1)
            with gr.Column(scale=77, min_width=560):
                _text(
                    f"<h2>2. The memory and the key</h2><p>Each panel is a channel{view.share_shown()}, blue below "
                    "zero and red above. "
                    'Drag in it, or the sliders, to move <span class="key">the key</span>; <span class="own">the '
                    "chosen image’s own block</span> and, in grey, the others’ stay.</p>"
                )
                with gr.Row():
                    with gr.Column(scale=52, min_width=400):
                        memory = _pictures(memory_now, "memory", "place")
                    with gr.Column(scale=25, min_width=240):
                        read = gr.HTML(read_now, elem_id="read", elem_classes="explore")
                with gr.Row():
                    x, x_number = _key_slider("x, % across", "x", start[0], numbers_now[0])
                    y, y_number = _key_slider("y, % down", "y", start[1], numbers_now[1])
                    scale, scale_number = _key_slider("scale, %", "scale", start[2], numbers_now[2])
                _text(f"<p>{_about_scale(explorer)}</p>")
        _text(
            "<h2>3. Recall from a corrupted cue</h2><p>Corrupt the images, and read: each result is the next cue. "
            "The key goes to the block that was read for the chosen image.</p>"
        )
        with gr.Row():
            with gr.Column(scale=43, min_width=380):
                with gr.Row():
                    corruption = gr.Dropdown(
                        list(CORRUPTIONS), value="salt_and_pepper", label="Corruption", min_width=130
                    )
                    strength = gr.Slider(**_strength("salt_and_pepper"), elem_id="strength", min_width=200, buttons=[])
                with gr.Row():
                    apply = gr.Button("Corrupt", elem_id="corrupt", min_width=80, size="md")
                    once = gr.Button("Read once", variant="primary", elem_id="read-once", min_width=80, size="md")
                    again = gr.Button("Start again", elem_id="start-again", min_width=80, size="md")
            with gr.Column(scale=77, min_width=560):
                strip = gr.HTML(view.strip(first), elem_id="strip", elem_classes="explore")

        sliders, at_key = [x, y, scale], [memory, read, x_number, y_number, scale_number]
        everything = [session, pictures, strip, *sliders, *at_key]

        def show(now: Session, percent: Percent) -> tuple[Any, ...]:
            return now, view.episode(now), view.strip(now), *percent, *view.at_key(now, percent)

        def open_episode(number: float) -> tuple[Any, ...]:
            now = explorer.open(int(number) - 1)
            return 1, *show(now, explorer.own_key(now))

        def choose(now: Session, number: float) -> tuple[Any, ...]:
            now = replace(now, chosen=int(number) - 1)
            return show(now, explorer.own_key(now))

        def choose_at(now: Session, event: gr.EventData) -> tuple[Any, ...]:
            found = view.images.find(event.x, event.y)
            chosen = now.chosen if found is None else found[0]
            return chosen + 1, *choose(now, chosen + 1)

        def move(now: Session, *percent: float) -> tuple[str, ...]:
            return view.at_key(now, (percent[0], percent[1], percent[2]))

        def move_to(now: Session, scale: float, event: gr.EventData) -> tuple[Any, ...]:
            found = view.memory.find(event.x, event.y)
            if found is None:
                return (gr.skip(),) * 8
            percent = explorer.point_at(found[1], found[2], scale)
            return *percent, *view.at_key(now, percent)

        def corrupt(now: Session, name: str, strength: float) -> tuple[Session, str]:
            try:
                now = explorer.corrupt(now, name, strength)
            except InputError as error:
                raise gr.Error(str(error), print_exception=False) from error
            return now, view.strip(now)

        def read_once(now: Session) -> tuple[Any, ...]:
            return show(*explorer.read_once(now))

        def start_again(now: Session) -> tuple[Session, str]:
            now = explorer.start_again(now)
            return now, view.strip(now)

        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        # Changes of the session wait in one queue: a slow one would otherwise overwrite a quick one that came later.
        inline: dict[str, Any] = {**quiet, "concurrency_id": "session", "trigger_mode": "always_last"}
        which.input(open_episode, which, [image, *everything], **inline)
        image.input(choose, [session, image], everything, **inline)
        pictures.input(choose_at, session, [image, *everything], **inline)
        apply.click(corrupt, [session, corruption, strength], [session, strip], **inline)
        once.click(read_once, session, everything, **inline)
        again.click(start_again, session, [session, strip], **inline)
        # The others only read the session: without the queue, they take half the time.
        at_once: dict[str, Any] = {**quiet, "queue": False, "trigger_mode": "always_last"}
        gr.on([slider.input for slider in sliders], move, [session, *sliders], at_key, **at_once)
        memory.input(move_to, [session, scale], [*sliders, *at_key], **at_once)
        page.load(lambda _: None, session, **at_once)  # the server's first response is slow: have it now
        corruption.input(lambda name: gr.Slider(**_strength(name)), corruption, strength, **at_once)
    return page


def _text(content: str) -> gr.HTML:
    return gr.HTML(content, elem_classes="explore")


def _pictures(content: str, name: str, kind: str) -> gr.HTML:
    """An image that can be clicked, or dragged in."""
    return gr.HTML(content, elem_id=name, elem_classes=["explore", kind], js_on_load=_POINTER)


def _slider(
    least: float, most: float, value: float, step: float, label: str, name: str, visible: bool = True
) -> gr.Slider:
    return gr.Slider(
        least, most, value, step=step, label=label, elem_id=name, visible=visible, min_width=120, buttons=[]
    )


def _key_slider(label: str, name: str, value: float, number: str) -> tuple[gr.Slider, gr.HTML]:
    """A slider in percent of the prior, above the number of the key that it sets."""
    with gr.Column(min_width=170, elem_classes="tight"):
        return _slider(0, 100, value, 0.1, label, name), gr.HTML(number, elem_classes="explore")


def _strength(corruption: str) -> dict[str, Any]:
    """Arguments of the slider of a corruption's strength."""
    kind = CORRUPTIONS[corruption]
    largest, middle = min(kind.largest, _MOST_STRENGTH), kind.strengths[1]
    return {"minimum": 0.05, "maximum": largest, "value": middle, "step": 0.05, "label": f"Strength, {kind.meaning}"}


def _about_scale(explorer: Explorer) -> str:
    """The effect of the scale with this addressing, and the meaning of the key's numbers."""
    addressing = explorer.addressing
    if addressing.semantic > 0:
        low, high = 100 * addressing.sharp, 100 * (1 - addressing.broad)
        scale = (
            f"Below {low:g} % the scale does not matter. From there to {high:g} % a key is a semantic read: its block "
            "is read for an image that was not written. Above that the read grows to as large as the memory allows."
        )
    elif addressing.broad > 0:
        scale = (
            f"The scale only matters in its top {100 * addressing.broad:g} % here: there the read grows from one block "
            "to as large as the memory allows."
        )
    else:
        scale = "The scale does not matter here: each read is of one block."
    reads = (
        f" All {addressing.layout.reads} reads of an image share the sliders." if addressing.layout.reads > 1 else ""
    )
    return f"{scale} Below each slider is the key’s number, standard normal under the prior.{reads}"


def _figure(image: Tensor, height: int, caption: str) -> str:
    picture = enlarged(pictures_of(image[None])[0], max(1, round(height / image.shape[-2])))
    return f"<figure>{_image(picture, 'an image')}<figcaption>{caption}</figcaption></figure>"


def _image(picture: Picture, alt: str) -> str:
    data = base64.b64encode(to_png(picture)).decode()
    height, width = picture.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img alt="{alt}" {size} draggable="false" src="data:image/png;base64,{data}">'
