"""What each control of the page of `explore.py` changes on it; the layout is in `explore_page.py`."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from experiments.shared.explore_own import OwnPictures
from experiments.shared.explore_session import Explorer, Percent, Session
from experiments.shared.explore_view import View
from experiments.shared.pictures import describe_size
from kpp_pyro.corruptions import CORRUPTIONS
from kpp_pyro.errors import InputError

TEST, MINE = "Test set", "My pictures"  # where episodes come from
_WRITE_CHANGES = 15  # components that a write changes, beside its button and its sentence
_MOST_STRENGTH = 3.0  # on the slider, of a corruption without a largest strength


class Controls:
    """Handlers of the page's events: from the values of some components to new values of others.

    Args:
        explorer: the memory and its episodes.
        view: renders them.
    """

    def __init__(self, explorer: Explorer, view: View) -> None:
        self.explorer, self.view = explorer, view

    def show(self, now: Session, percent: Percent) -> tuple[Any, ...]:
        """Everything that shows a session."""
        return now, self.view.episode(now), self.view.strip(now), *percent, *self.view.at_key(now, percent)

    def open_source(self, own: OwnPictures | None, source: str) -> tuple[Any, ...]:
        """Open the first episode of the test set, or the first memory of the browser's own pictures."""
        own = own or self.explorer.own()
        first = 1 if source == TEST else 0
        return self.which(source, own, first), *self.open(own, source, first)

    def open(self, own: OwnPictures | None, source: str, number: float) -> tuple[Any, ...]:
        """Open an episode of the test set, counted from 1, or a memory of the browser's own pictures, from 0."""
        own = own or self.explorer.own()
        with _told():
            now = self.explorer.open(int(number) - 1) if source == TEST else self.explorer.open_own(own, int(number))
        return own, *self._opened(now)

    def choose(self, now: Session, number: float) -> tuple[Any, ...]:
        """Choose an image, counted from 1."""
        now = replace(now, chosen=int(number) - 1)
        return self.show(now, self.explorer.own_key(now))

    def choose_at(self, now: Session, event: gr.EventData) -> tuple[Any, ...]:
        """Choose the image that was pressed."""
        found = self.view.images(now).find(event.x, event.y)
        chosen = now.chosen if found is None else found[0]
        return chosen + 1, *self.choose(now, chosen + 1)

    def move(self, now: Session, *percent: float) -> tuple[str, ...]:
        """Move the key to the sliders."""
        return self.view.at_key(now, (percent[0], percent[1], percent[2]))

    def move_to(self, now: Session, scale: float, event: gr.EventData) -> tuple[Any, ...]:
        """Move the key to the place in the memory that was pressed."""
        found = self.view.memory.find(event.x, event.y)
        if found is None:
            return (gr.skip(),) * 8
        percent = self.explorer.point_at(found[1], found[2], scale)
        return *percent, *self.view.at_key(now, percent)

    def corrupt(self, now: Session, name: str, strength: float) -> tuple[Session, str]:
        """Begin a recall from corrupted copies."""
        with _told():
            now = self.explorer.corrupt(now, name, strength)
        return now, self.view.strip(now)

    def read_once(self, now: Session) -> tuple[Any, ...]:
        """Read once more; the key goes to the block that was read."""
        return self.show(*self.explorer.read_once(now))

    def start_again(self, now: Session) -> tuple[Session, str]:
        """Discard the corruption and the reads."""
        now = self.explorer.start_again(now)
        return now, self.view.strip(now)

    def write(self, own: OwnPictures | None, files: Sequence[str], dark_on_light: bool) -> tuple[Any, ...]:
        """Write uploaded pictures, and open the memory of the first one."""
        try:
            with _uploaded(files) as paths:
                own = own or self.explorer.own()
                names, images = own.write(paths, dark_on_light)
        except InputError as error:
            return None, _status(str(error)), *(gr.skip(),) * _WRITE_CHANGES
        memory = own.collection.memory_of(names[0])
        now = self.explorer.open_own(own, memory)
        now = replace(now, chosen=now.names.index(names[0]))
        light = self.explorer.trained.distance.binary and images.mean().item() > 0.5
        hint = " They are mostly light: tick “Dark on light” if their strokes are dark." * light
        status = _status(f"Written: {len(names):,}. Now {describe_size(own.collection)}.{hint}")
        which = self.which(MINE, own, memory)
        return None, status, gr.Radio(value=MINE, visible=True), which, own, *self._opened(now)

    def find(
        self,
        own: OwnPictures | None,
        file: str,
        dark_on_light: bool,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008  # Gradio finds it so
    ) -> tuple[Any, ...]:
        """Find the picture that an uploaded cue is a copy of."""
        try:
            with _uploaded([file]) as paths:
                own = own or self.explorer.own()
                cue, recalled = own.find(paths[0], dark_on_light)
        except InputError as error:
            return None, _status(str(error)), own
        return None, self.view.found(own, cue, recalled), own

    def which(self, source: str, own: OwnPictures | None, number: int) -> gr.Slider:
        """The slider of episodes, or of the memories of one's own pictures."""
        if source == TEST or own is None:
            least, most, label = 1, len(self.explorer.episodes), "Episode of the test set"
        else:
            least, most, label = 0, own.collection.memories - 1, "Memory of my pictures"
        return gr.Slider(least, max(most, least + 1), number, label=label, visible=most > least)

    def strength(self, corruption: str) -> dict[str, Any]:
        """Arguments of the slider of a corruption's strength."""
        kind = CORRUPTIONS[corruption]
        largest, middle = min(kind.largest, _MOST_STRENGTH), kind.strengths[1]
        return {
            "minimum": 0.05,
            "maximum": largest,
            "value": middle,
            "step": 0.05,
            "label": f"Strength, {kind.meaning}",
        }

    def _opened(self, now: Session) -> tuple[Any, ...]:
        """The slider of images, and everything that shows a session that was opened."""
        length = len(now.episode)
        image = gr.Slider(maximum=max(length, 2), value=now.chosen + 1, visible=length > 1)
        return image, *self.show(now, self.explorer.own_key(now))


def _status(sentence: str) -> str:
    return f'<p role="status">{html.escape(sentence)}</p>'


@contextmanager
def _told() -> Iterator[None]:
    """Show an `InputError` on the page."""
    try:
        yield
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error


@contextmanager
def _uploaded(files: Sequence[str]) -> Iterator[list[Path]]:
    """Paths of uploaded files, which Gradio keeps in a folder each; they are deleted at the end."""
    paths = [Path(file) for file in files]
    try:
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # two files of the same content and name share a folder
                path.parent.rmdir()
