"""Probabilities of a recall, fitted to corrupted copies of images that are, and that are not, in the collection.

Each of C candidates explains a cue with its own error e_c, the mean square difference over the D known dimensions. With
normal noise of an unknown variance, its log-likelihood is -(D / 2) ln e_c, up to a constant: the profile likelihood.

    P(c | cue, written)  proportional to  e_c^(-beta D / 2)                             beta fitted
    P(written | cue)     = sigmoid(w f + b)                                             w and b fitted

The features f are the errors of the best candidate and of the same networks without the memory, by how many nats the
best candidate leads, and the squares and products of these. Before a cue is seen, written and never written
are equally probable. Images count as never written while their own blocks are left out of the search.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.collection.ranking import Ranking
from kpp_pyro.corruptions import CORRUPTIONS, Corrupted, corrupt
from kpp_pyro.schema import FileContent, Natural, NotNegative

_MOST_IMAGES = 256  # of a sample
_PENALTY = 0.1  # of the logistic regression's squared weights
_BETA = 0.3  # before it is fitted
_BETAS = torch.logspace(-2, 0, 41)  # to choose from; 1 if the errors of all pixels were independent
_LEAST_SHARE = 1e-6  # of a candidate that is the right one, where beta is fitted


class Sample:
    """Some of the images that were written, by slot: every image has the same probability to be among them.

    Args:
        seed: of the choice.
    """

    def __init__(self, seed: int = 0) -> None:
        self._images: dict[int, Tensor] = {}
        self._seen = 0
        self._random = random.Random(seed)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def add(self, slots: Sequence[int], images: Tensor) -> None:
        """Add images (n, C, H, W) that were written to slots; of too many, a random choice is kept."""
        for slot, image in zip(slots, images, strict=True):
            self._seen += 1
            if len(self._images) < _MOST_IMAGES:
                self._images[slot] = image.clone()
            elif self._random.random() < _MOST_IMAGES / self._seen:
                del self._images[self._random.choice(list(self._images))]
                self._images[slot] = image.clone()

    def drop(self, slot: int) -> None:
        """Forget the image of a slot."""
        self._images.pop(slot, None)

    def repeated(self, count: int) -> tuple[Tensor, Tensor]:
        """Slots (n,) and images (n, C, H, W) of the sample, repeated until there are at least `count`."""
        times = -(-count // len(self))
        slots, images = torch.tensor(list(self._images)), torch.stack(list(self._images.values()))
        return slots.repeat(times), images.repeat(times, 1, 1, 1)


class Calibration(FileContent):
    """The fitted numbers of a collection's probabilities.

    Attributes:
        collection: number of images in the collection.
        images: number of images whose copies were recalled.
        cues: number of these copies.
        beta: share of the known dimensions that count as independent.
        mean: of the features.
        scale: standard deviation of the features.
        weights: w, of the standardised features.
        intercept: b.
    """

    collection: Natural
    images: Natural
    cues: Natural
    beta: NotNegative
    mean: list[float]
    scale: list[NotNegative]
    weights: list[float]
    intercept: float

    def written(self, ranking: Ranking) -> Tensor:
        """P(written | cue), (Q,)."""
        features = ranking.features()
        mean, scale, weights = (features.new_tensor(values) for values in (self.mean, self.scale, self.weights))
        return ((features - mean) / scale @ weights + self.intercept).sigmoid()

    def shares(self, ranking: Ranking) -> Tensor:
        """P(c | cue, written), (Q, C)."""
        return shares_of(ranking, self.beta)

    @classmethod
    def fit(cls, written: Ranking, own: Tensor, left_out: Ranking, collection: int) -> Calibration:
        """Fit to cues whose images are written, and to the same cues with their images left out.

        Args:
            written: candidates of cues.
            own: slots of their images, (Q,).
            left_out: candidates of the same cues without these slots.
            collection: number of images in the collection.
        """
        from sklearn.linear_model import LogisticRegression

        features = torch.cat([written.features(), left_out.features()])
        mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
        truth = torch.arange(len(features)) < len(own)
        regression = LogisticRegression(C=1 / _PENALTY, max_iter=5000)
        regression.fit(((features - mean) / scale).double().numpy(), truth.numpy())
        return cls(
            collection=collection,
            images=len(own.unique()),
            cues=len(own),
            beta=_fitted_beta(written, own),
            mean=mean.tolist(),
            scale=scale.tolist(),
            weights=regression.coef_[0].tolist(),
            intercept=float(regression.intercept_[0]),
        )


def calibration_cues(images: Tensor, seed: int = 0) -> Corrupted:
    """A copy of each image (n, C, H, W): as it is, or with a registered corruption at one of its strengths, in turn."""
    kinds = [(name, strength) for name, kind in CORRUPTIONS.items() for strength in kind.strengths]
    generator = torch.Generator().manual_seed(seed)
    cues, hidden = images.clone(), torch.zeros_like(images, dtype=torch.bool)
    for number, (name, strength) in enumerate(kinds):
        turn = slice(number, None, len(kinds) + 1)  # the last turn leaves images as they are
        if len(images[turn]):
            corrupted = corrupt(images[turn], name, strength, generator)
            cues[turn], hidden[turn] = corrupted.images, corrupted.hidden
    return Corrupted(cues, hidden)


def shares_of(ranking: Ranking, beta: float = _BETA) -> Tensor:
    """P(c | cue, written) at one beta, (Q, C)."""
    return (-beta * ranking.nats()).softmax(-1)


def _fitted_beta(written: Ranking, own: Tensor) -> float:
    """The beta under which the right candidates, where they are among the candidates, have the largest probability."""
    right = written.slots == own.unsqueeze(-1)
    losses = [-(shares_of(written, float(b)) * right).sum(-1).clamp(min=_LEAST_SHARE).log().mean() for b in _BETAS]
    return float(_BETAS[torch.stack(losses).argmin()])
