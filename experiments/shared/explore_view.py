"""What the page of `explore.py` shows, as HTML.

Images are PNG data inside the HTML: a change is one response of the server, and leaves no file behind. Each has an
alternative text that says what it is.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable

from torch import Tensor

from experiments.shared.explore_own import OwnPictures
from experiments.shared.explore_session import Explorer, Percent, Session
from inference.collection.collection import Match, Recalled
from kpp_pyro.distances import psnr_db
from kpp_pyro.plots.screen import Colour, Frame, Grid, Picture, enlarged, pictures_of, signed, to_png

_KEY: Colour = (255, 111, 0)  # the block that the sliders point at
_OWN: Colour = (0, 150, 136)  # the chosen image and its own block
_OTHERS: Colour = (140, 140, 140)

_EPISODE_SIZE, _MEMORY_SIZE = (300, 420), (290, 520)  # (height, width) at most, in screen pixels
_LARGE, _SMALL = 112, 84  # height of a single image, and of one in a strip
_MOST_CHANNELS = 8
_LINE = 2


class View:
    """Renders a session as HTML.

    Args:
        explorer: the memory and its episodes.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        layout = explorer.addressing.layout
        self.channels = min(layout.channels, _MOST_CHANNELS)
        self.memory = Grid.fitting(self.channels, (layout.height, layout.width), _MEMORY_SIZE)

    def share_shown(self) -> str:
        """Which channels of the memory are shown, if not all."""
        channels = self.explorer.addressing.layout.channels
        return "" if self.channels == channels else f" (the first {self.channels} of {channels})"

    def images(self, session: Session) -> Grid:
        """The layout of the images of the episode."""
        length, _, height, width = session.episode.shape
        return Grid.fitting(length, (height, width), _EPISODE_SIZE)

    def episode(self, session: Session) -> str:
        """All images of the episode, the chosen one in a frame."""
        grid = self.images(session)
        picture = grid.arrange(pictures_of(session.episode))
        grid.frame(picture, [Frame((0, 0, grid.width, grid.height), _OWN, line=3)], tiles=[session.chosen])
        return _image(picture, f"The {grid.tiles} images of the episode; chosen: {session.title}")

    def at_key(self, session: Session, percent: Percent) -> tuple[str, ...]:
        """The memory with its boxes; the read and the chosen image; the key's three numbers."""
        read = self.explorer.read(session, percent)
        numbers = (f'<span class="number">key {number:+.2f}</span>' for number in self.explorer.numbers(percent))
        block = self.explorer.block_at(percent)
        place = "no single block" if block is None else f"block {block}"
        return self._memory(session, percent, place), self._read(session, read, percent, place), *numbers

    def strip(self, session: Session) -> str:
        """The recall: the original, the cue and each read, with their errors."""
        original = session.episode[session.chosen]
        steps = [("cue", session.damage, session.cue.images)]
        steps += [(f"read {n}", f"of the cue {session.damage}", read) for n, read in enumerate(session.reads, 1)]
        shown = [_figure(original, _SMALL, "<b>original</b>", f"original: {session.title}, as written")]
        for name, what, images in steps:
            image = images[session.chosen]
            caption = f"<b>{name}</b><br>{_error(session, image, 'wrong')}"
            shown.append(_figure(image, _SMALL, caption, f"{name}: {session.title}, {what}"))
        return _strip(shown)

    def found(self, own: OwnPictures, cue: Tensor, recalled: Recalled) -> str:
        """What a cue recalls: a sentence, the cue, and the matches, best first."""
        calibrated = own.collection.calibration is not None
        shown = [_figure(cue, _SMALL, "<b>cue</b>", "the cue that was uploaded")]
        shown += [_match(match, calibrated) for match in recalled.matches]
        return f'<p role="status">{_verdict(recalled, calibrated)}</p>{_strip(shown)}'

    def _memory(self, session: Session, percent: Percent, place: str) -> str:
        addressing = self.explorer.addressing
        picture = self.memory.arrange(signed(session.memory.value[: self.channels]))
        own = addressing.boxes(session.keys).tolist()  # (T, R, 4)
        key = addressing.boxes(self.explorer.key(percent))[0, :1].tolist()  # all reads are of the same place
        frames = [Frame(box, _OTHERS, line=1, opacity=0.5) for boxes in own for box in boxes]
        frames += [
            Frame(box, _OWN, line=2 * _LINE) for box in own[session.chosen]
        ]  # wider than the key's, to be visible under it
        self.memory.frame(picture, [*frames, *(Frame(box, _KEY, line=_LINE) for box in key)])
        return _image(picture, f"{self.channels} channels of the memory; the key reads {place}")

    def _read(self, session: Session, read: Tensor, percent: Percent, place: str) -> str:
        at = self.explorer.images_at(session, percent)
        names = ", ".join(str(image + 1) for image in at)
        whose = f"the block of image{'s' * (len(at) > 1)} {names}" if at else "no image’s own block"
        wrong = _error(session, read, f"pixels differ from image {session.chosen + 1}")
        numbers = ", ".join(f"{number:+.2f}" for number in self.explorer.numbers(percent))
        number, *name = session.title.split(", ", 1)
        figures = (
            _figure(
                read,
                _LARGE,
                f'<span class="key">read</span><br>{place},<br>{whose}<br>{wrong}',
                f"read at key {numbers} (x, y, scale): {place}, {whose}",
            ),
            _figure(
                session.episode[session.chosen],
                _LARGE,
                f'<span class="own">{number}</span><br>{html.escape("".join(name))}',
                f"{session.title}, as written",
            ),
        )
        return _strip(figures)


def _verdict(recalled: Recalled, calibrated: bool) -> str:
    """Whether a cue was found, in a sentence."""
    if not calibrated:
        return "Probabilities need two pictures or more: this is the only one."
    best, never = recalled.matches[0], f"probability of never written {recalled.never_written:.3f}"
    if recalled.never_written >= best.probability:
        return f"<b>Not in here</b>: {never}. The nearest pictures are:"
    return f"<b>{html.escape(best.name)}</b>: probability {best.probability:.3f}; {never}."


def _match(match: Match, calibrated: bool) -> str:
    """A picture that a cue may be a copy of."""
    place = f"memory {match.memory}, block {match.block}"
    probability = f"probability {match.probability:.3f}<br>" if calibrated else ""
    caption = f"<b>{html.escape(match.name)}</b><br>{probability}{place}"
    return _figure(match.image, _SMALL, caption, f"match: {match.name}, read from {place}")


def _error(session: Session, image: Tensor, differ: str) -> str:
    """The error of an image against the chosen one: how many pixels `differ`, in words, or the PSNR."""
    error = session.error(image)
    if session.distance.binary:
        return f"{error:.0f} {differ}"
    return f"PSNR {psnr_db(error):.1f} dB" if error else "exact"


def _strip(figures: Iterable[str]) -> str:
    return f'<div class="strip">{"".join(figures)}</div>'


def _figure(image: Tensor, height: int, caption: str, alt: str) -> str:
    picture = enlarged(pictures_of(image[None])[0], max(1, round(height / image.shape[-2])))
    return f"<figure>{_image(picture, alt)}<figcaption>{caption}</figcaption></figure>"


def _image(picture: Picture, alt: str) -> str:
    data = base64.b64encode(to_png(picture)).decode()
    height, width = picture.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img alt="{html.escape(alt)}" {size} draggable="false" src="data:image/png;base64,{data}">'
