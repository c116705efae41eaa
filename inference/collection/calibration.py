"""Probabilities of a recall, fitted to corrupted copies of images that are, and that are not, in the collection.

Each candidate explains a cue with its own error e, the mean square difference over the D known dimensions. With normal
noise of an unknown variance, its log-likelihood is -(D / 2) ln e, up to a constant: the profile likelihood. The
features f of a cue are the errors of the best candidate and of the same networks without the memory, how much of the
first is excess brightness, by how many nats the best candidate leads, and the squares and products of these. Two
logistic regressions on f are fitted:

    P(written | cue)                       of all cues: of images as they are, and with their own blocks left out
    P(the best candidate is the one | cue, written)                        of the cues of images as they are

Before a cue is seen, written and never written are equally probable.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from inference.collection.ranking import FEATURES, Ranking
from kpp_pyro.corruptions import CORRUPTIONS, Corrupted, corrupt
from kpp_pyro.schema import FileContent, Natural

_MOST_IMAGES = 256  # of a sample
_CUES_OF_IMAGE = 8  # that count as independent
_PENALTY = 0.1  # of a regression's squared weights
_INDEPENDENT = 0.1  # share of the dimensions that count as independent, where candidates behind the best are compared

_Number = Annotated[float, Field(ge=-1e6, le=1e6)]
_Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
_Numbers = Annotated[list[_Number], Field(min_length=FEATURES, max_length=FEATURES)]
_Scales = Annotated[list[_Scale], Field(min_length=FEATURES, max_length=FEATURES)]


class Sample:
    """Some of the images that were written, by name: every image has the same probability to be among them.

    Args:
        seed: of the choice.
        images: by name; those of an earlier sample.
        seen: number of images that these were chosen from.
    """

    def __init__(self, seed: int = 0, images: dict[str, Tensor] | None = None, seen: int = 0) -> None:
        self.images, self.seen, self._seed = dict(images or {}), seen, seed

    def add(self, names: Sequence[str], images: Tensor) -> None:
        """Add images (n, C, H, W) by name; of too many, a random choice is kept (reservoir sampling)."""
        for name, image in zip(names, images.cpu(), strict=True):
            self.seen += 1
            if len(self.images) >= _MOST_IMAGES:
                place = random.Random(f"{self._seed} {self.seen}").randrange(self.seen)
                if place >= _MOST_IMAGES:
                    continue
                del self.images[list(self.images)[place]]
            self.images[name] = image.clone()

    def drop(self, name: str) -> None:
        """Forget an image."""
        self.images.pop(name, None)


class Regression(FileContent):
    """P(true | f) = sigmoid(w (f - mean) / scale + b)."""

    mean: _Numbers
    scale: _Scales
    weights: _Numbers
    intercept: _Number

    def probability(self, features: Tensor) -> Tensor:
        """Probabilities (Q,) from features (Q, F)."""
        mean, scale, weights = (features.new_tensor(values) for values in (self.mean, self.scale, self.weights))
        return ((features - mean) / scale @ weights + self.intercept).sigmoid()

    @classmethod
    def fit(cls, features: Tensor, truth: Tensor, weight: float = 1.0) -> Regression:
        """Fit to features (Q, F) and what is true, bool (Q,). Two half cues at the mean stand for both outcomes.

        Args:
            features: of the cues.
            truth: what is true of them.
            weight: of each cue; the less, the nearer to 1/2 are the probabilities.
        """
        from sklearn.linear_model import LogisticRegression

        mean, scale = features.mean(0), features.std(0).clamp(2e-6, 1e6)
        standard = torch.cat([(features - mean) / scale, torch.zeros(2, features.shape[1])]).double()
        outcomes, weights = torch.cat([truth, torch.tensor([True, False])]), torch.full((len(standard),), weight)
        weights[-2:] = 0.5
        regression = LogisticRegression(C=1 / _PENALTY, max_iter=5000)
        regression.fit(standard.numpy(), outcomes.numpy(), sample_weight=weights.numpy())
        return cls(
            mean=mean.tolist(),
            scale=scale.tolist(),
            weights=regression.coef_[0].tolist(),
            intercept=float(regression.intercept_[0]),
        )


class Calibration(FileContent):
    """The fitted probabilities of a collection.

    Attributes:
        collection: number of images in the collection.
        images: number of images whose copies were recalled.
        cues: number of these copies.
        written: of a cue's image.
        right: of the best candidate, if the image is written.
    """

    collection: Natural
    images: Natural
    cues: Natural
    written: Regression
    right: Regression

    def probabilities(self, ranking: Ranking) -> tuple[Tensor, Tensor]:
        """P(candidate is the one | cue), (Q, C), and P(written | cue), (Q,).

        The other candidates share what the best one leaves, but none gets more than it; the rest is of images that are
        no candidates. Candidates of equal content share what one of them would get.
        """
        contents = ranking.distinct()
        features = contents.features()
        written, right = (kind.probability(features) for kind in (self.written, self.right))
        others = shares_of(contents)
        others[:, 0] = 0
        others = others / others.sum(-1, keepdim=True).clamp(min=1e-30) * (1 - right).unsqueeze(-1)
        others = torch.minimum(others, right.unsqueeze(-1))
        others[:, 0] = right
        content = ranking.heads.cumsum(-1) - 1  # of each candidate
        copies = torch.zeros_like(others).scatter_add(1, content, torch.ones_like(others))
        return (others / copies.clamp(min=1)).gather(1, content) * written.unsqueeze(-1), written

    @classmethod
    def fit(cls, written: Ranking, own: Tensor, left_out: Ranking, collection: int) -> Calibration:
        """Fit to cues whose images are written, and to the same cues with their images left out.

        Args:
            written: candidates of cues.
            own: slots of their images, (Q,).
            left_out: candidates of the same cues without these slots.
            collection: number of images in the collection.
        """
        of_written, of_others = written.distinct().features(), left_out.distinct().features()
        images = len(own.unique())
        weight = min(1.0, _CUES_OF_IMAGE * images / len(own))  # cues of one image are not independent
        return cls(
            collection=collection,
            images=images,
            cues=len(own),
            written=Regression.fit(torch.cat([of_written, of_others]), torch.arange(2 * len(own)) < len(own), weight),
            right=Regression.fit(of_written, written.slots[:, 0] == own, weight),
        )


def calibration_cues(images: Tensor, seed: int = 0) -> Corrupted:
    """A copy of each image (n, C, H, W), in turn: as it is, or with a registered corruption at one of its strengths.

    Where a corruption hides pixels, there are two kinds of copies: it is known which ones, or it is not.
    """
    kinds = [(name, strength, kind.hides) for name, kind in CORRUPTIONS.items() for strength in kind.strengths]
    kinds += [(name, strength, False) for name, strength, hides in kinds if hides]
    generator = torch.Generator().manual_seed(seed)
    cues, hidden = images.clone(), torch.zeros_like(images, dtype=torch.bool)
    for number, (name, strength, is_known) in enumerate(kinds):
        turn = slice(number, None, len(kinds) + 1)  # the last turn leaves images as they are
        if len(images[turn]):
            corrupted = corrupt(images[turn], name, strength, generator)
            cues[turn] = corrupted.images
            if is_known:
                hidden[turn] = corrupted.hidden
    return Corrupted(cues, hidden)


def shares_of(ranking: Ranking) -> Tensor:
    """Shares of the candidates, (Q, C), in proportion to e^(-a D / 2), where a share a of the dimensions counts."""
    return (-_INDEPENDENT * ranking.nats()).softmax(-1)
