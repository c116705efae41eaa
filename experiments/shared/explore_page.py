"""The page of `explore.py`: its layout, and which control calls which method of `Controls`."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from experiments.shared.explore_controls import MINE, TEST, Controls
from experiments.shared.explore_own import MOST_FILES
from experiments.shared.explore_session import Explorer
from experiments.shared.explore_style import POINTER
from experiments.shared.explore_view import View
from experiments.shared.pictures import describe_size
from kpp_pyro.corruptions import CORRUPTIONS

THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="gray",
    spacing_size="sm",
    text_size="sm",
    font=["system-ui", "sans-serif"],  # of the system: the page loads nothing from the internet
    font_mono=["ui-monospace", "monospace"],
).set(
    layout_gap="10px",
    block_padding="8px 10px",
    slider_color="*primary_500",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_title_text_color="*neutral_700",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
)


def build_page(explorer: Explorer, name: str) -> gr.Blocks:
    """Lay out the page and connect its controls.

    Args:
        explorer: the memory and its episodes.
        name: of the run, for the title.

    Raises:
        InputError: the explorer's collection cannot be loaded.
    """
    view = View(explorer)
    controls = Controls(explorer, view)
    loaded = explorer.own() if explorer.collection else None  # here, so that a wrong folder is refused before the page
    first = explorer.open(0)
    start = explorer.own_key(first)
    memory_now, read_now, *numbers_now = view.at_key(first, start)
    length, episodes = len(first.episode), len(explorer.episodes)
    with gr.Blocks(title=f"Explore {name}", analytics_enabled=False, fill_width=True) as page:
        session, own = gr.State(first), gr.State(None)
        _text(
            f"<h1>Explore a memory: {html.escape(name)}</h1><p>The images of an episode are written into one "
            "memory. A key points at a block of it, and the block is decoded into an image.</p>"
        )
        with gr.Row():
            with gr.Column(scale=43, min_width=380):
                _text("<h2>1. The episode</h2><p>Choose an image: the key goes to its block.</p>")
                source = gr.Radio(
                    [TEST, MINE], value=TEST, label="Images from", elem_id="source", visible=loaded is not None
                )
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
                    strength = gr.Slider(
                        **controls.strength("salt_and_pepper"), elem_id="strength", min_width=200, buttons=[]
                    )
                with gr.Row():
                    apply = gr.Button("Corrupt", elem_id="corrupt", min_width=80, size="md")
                    once = gr.Button("Read once", variant="primary", elem_id="read-once", min_width=80, size="md")
                    again = gr.Button("Start again", elem_id="start-again", min_width=80, size="md")
            with gr.Column(scale=77, min_width=560):
                strip = gr.HTML(view.strip(first), elem_id="strip", elem_classes="explore")
        _text(f"<h2>4. My pictures</h2><p>{_about_own(explorer)}</p>")
        with gr.Row():
            with gr.Column(scale=43, min_width=380):
                with gr.Row():
                    write = gr.UploadButton(
                        "Write mine …", file_count="multiple", elem_id="write", min_width=120, size="md"
                    )
                    find = gr.UploadButton("Find mine …", variant="primary", elem_id="find", min_width=120, size="md")
                dark_on_light = gr.Checkbox(label="Dark on light: invert what is uploaded", elem_id="dark-on-light")
                now = f"Now {describe_size(loaded.collection)}." if loaded else "Nothing is written yet."
                written = _text(f"<p>{now}</p>")
            with gr.Column(scale=77, min_width=560):
                found = gr.HTML("", elem_id="found", elem_classes="explore", min_height=60)

        sliders, at_key = [x, y, scale], [memory, read, x_number, y_number, scale_number]
        everything = [session, pictures, strip, *sliders, *at_key]
        opened = [own, image, *everything]

        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        # Changes of the session wait in one queue: a slow one would otherwise overwrite a quick one that came later.
        inline: dict[str, Any] = {**quiet, "concurrency_id": "session", "trigger_mode": "always_last"}
        source.input(controls.open_source, [own, source], [which, *opened], **inline)
        which.input(controls.open, [own, source, which], opened, **inline)
        image.input(controls.choose, [session, image], everything, **inline)
        pictures.input(controls.choose_at, session, [image, *everything], **inline)
        apply.click(controls.corrupt, [session, corruption, strength], [session, strip], **inline)
        once.click(controls.read_once, session, everything, **inline)
        again.click(controls.start_again, session, [session, strip], **inline)
        slow: dict[str, Any] = {**inline, "show_progress": "full", "trigger_mode": "once"}
        write.upload(
            controls.write,
            [own, write, dark_on_light],
            [write, written, source, which, *opened],
            show_progress_on=written,
            **slow,
        )
        find.upload(controls.find, [own, find, dark_on_light], [find, found, own], show_progress_on=found, **slow)
        # The others only read the session: without the queue, they take half the time.
        at_once: dict[str, Any] = {**quiet, "queue": False, "trigger_mode": "always_last"}
        gr.on([slider.input for slider in sliders], controls.move, [session, *sliders], at_key, **at_once)
        memory.input(controls.move_to, [session, scale], [*sliders, *at_key], **at_once)
        page.load(lambda _: None, session, **at_once)  # the server's first response is slow: have it now
        corruption.input(lambda name: gr.Slider(**controls.strength(name)), corruption, strength, **at_once)
    return page


def _text(content: str) -> gr.HTML:
    return gr.HTML(content, elem_classes="explore")


def _pictures(content: str, name: str, kind: str) -> gr.HTML:
    """An image that can be clicked, or dragged in."""
    return gr.HTML(content, elem_id=name, elem_classes=["explore", kind], js_on_load=POINTER)


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


def _about_own(explorer: Explorer) -> str:
    """What happens to uploaded pictures."""
    kept = "They are added to a copy of the collection; its folder is not changed." if explorer.collection else ""
    return (
        f"Write pictures, at most {MOST_FILES:,} at once, to as many memories as they take, and explore each memory "
        "above. Then upload a damaged copy, to find its original. Pictures stay on this computer, until the page is "
        f"closed. {kept}"
    )


def _about_scale(explorer: Explorer) -> str:
    """The effect of the scale with this addressing, and the meaning of the key's numbers."""
    addressing = explorer.addressing
    if addressing.broad > 0:
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
