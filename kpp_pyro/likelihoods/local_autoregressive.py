"""A likelihood of images of grey levels that predicts each pixel from the decoder and from four pixels before it.

The latent then says what is where, and the neighbours say the rest. Lossless codecs predict pixels from the same
neighbours. The latent holds less of the image than one behind independent pixels does: for recall, take these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor
from torch.distributions import constraints

from kpp_pyro.fast_pyro import ExpandsOnce
from kpp_pyro.likelihoods.discretized_logistic import DiscretizedLogisticMixture
from kpp_pyro.likelihoods.interface import LIKELIHOODS, Likelihood
from kpp_pyro.likelihoods.logistic_image import LogisticImage
from kpp_pyro.likelihoods.neighbours import NEIGHBOURS, neighbours_of, pixel_after_pixel

_START = (0.75, 0.75, -0.5, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)
"""Their coefficients for each component at outputs of zero: of a smooth surface, of a row, of a column."""


@dataclass(frozen=True)
class LocalAutoregressive(Likelihood):
    """p(x | z) = prod_i p(x_i | four neighbours of x_i, z), i row by row; each factor a mixture of three logistics.

    The decoder gives what `DiscretizedLogisticMixture` of three components needs, and four coefficients of neighbours
    for each component and channel, which count from a start that predicts photographs.

    A VAE with such a likelihood is a PixelVAE (Gulrajani et al. 2017, arXiv:1611.05013) whose masked convolutions are
    one linear prediction from pixels at a distance of one, with coefficients from the decoder.
    """

    levels: int = 256

    def decoder_channels(self, image_channels: int) -> int:
        """K (1 + 2 C + C (C - 1) / 2 + 4 C) with K = 3."""
        return self._mixture.decoder_channels(image_channels) + len(_START) * image_channels * len(NEIGHBOURS)

    def _distribution(self, outputs: Tensor, image_channels: int) -> Distribution:
        of_mixture = self._mixture.decoder_channels(image_channels)
        base: Any = self._mixture.distribution(outputs[..., :of_mixture, :, :], image_channels)
        sizes = len(_START), image_channels, len(NEIGHBOURS)
        changes = outputs[..., of_mixture:, :, :].to(base.locs).unflatten(-3, sizes)
        start = changes.new_zeros(sizes[0], 1, sizes[2], 1, 1)
        for component, coefficients in enumerate(_START):  # filled on the device: a captured step copies nothing to it
            for neighbour, coefficient in enumerate(coefficients):
                start[component, :, neighbour] = coefficient
        return LocalAutoregressiveImage(base, changes + start)

    @property
    def _mixture(self) -> DiscretizedLogisticMixture:
        return DiscretizedLogisticMixture(self.levels, len(_START))


class LocalAutoregressiveImage(ExpandsOnce, TorchDistribution):
    """Images of L grey levels; each pixel is a mixture of coupled logistics, predicted from four neighbours before it.

    Given its neighbours y_1 ... y_4 (left, upper, upper left, upper right; 0, which is the middle of the range, beyond
    an edge), a pixel is one of `LogisticImage` with the base's weights and scales, and with locations

        loc_kc + sum_n a_kcn y_nc + sum_{j<c} coupling_kcj (y_j - loc_kj - sum_n a_kjn y_nj).

    A channel is coupled to the errors of the channels before it.

    Args:
        base: what holds where all neighbours are 0 and all channels before are as predicted, (...), (C, H, W).
        coefficients: a, (..., K, C, 4, H, W).
        validate_args: as in any Pyro distribution: refuse images between the levels.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, base: LogisticImage, coefficients: Tensor, validate_args: bool | None = None) -> None:
        self.base, self.coefficients = base, coefficients
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Images of intensities k / (L - 1)."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """Mean intensities in [0, 1], (..., C, H, W), except that no tail beyond the range is moved to its edge.

        Locations are linear in the neighbours, and weights do not depend on them: each pixel's mean is its mean given
        the means of its neighbours.
        """
        return self._pixel_after_pixel(lambda pixels: pixels.mean)

    @property
    def mode(self) -> Tensor:
        """Each pixel's most probable component at its location, given such neighbours, (..., C, H, W)."""
        return self._pixel_after_pixel(lambda pixels: pixels.mode)

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw intensities (sample_shape, ..., C, H, W), each of them a level, in 2 H + W - 2 successive draws."""
        return self.expand(Size(sample_shape) + self.batch_shape)._pixel_after_pixel(lambda pixels: pixels.sample())

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(x | z) of images (..., C, H, W) in nats, (...).

        Raises:
            ValueError: images of whole numbers or truth values, which would wrap around.
        """
        if self._validate_args:
            self._validate_sample(value)
        neighbours = neighbours_of(self.base.nearest_levels(value))
        return self._given(self.base, self.coefficients, neighbours).log_prob(value)

    def _expanded(self, batch_shape: Size) -> LocalAutoregressiveImage:
        coefficients = self.coefficients.expand(batch_shape + self.coefficients.shape[-5:])
        return LocalAutoregressiveImage(self.base.expand(batch_shape), coefficients, validate_args=False)

    @staticmethod
    def _given(base: LogisticImage, coefficients: Tensor, neighbours: Tensor) -> LogisticImage:
        """Pixels given their neighbours (..., C, 4, H, W), in centred grey levels."""
        locs = base.locs
        for coefficient, neighbour in zip(coefficients.unbind(-3), neighbours.unsqueeze(-5).unbind(-3), strict=True):
            locs = torch.addcmul(locs, coefficient, neighbour)
        return base.around(locs)

    def _pixel_after_pixel(self, value: Callable[[LogisticImage], Tensor]) -> Tensor:
        """The `value` of each pixel given its neighbours' values, (..., C, H, W)."""

        def pixels(rows: Tensor, columns: Tensor, neighbours: Tensor) -> Tensor:
            base = self.base.at_pixels(rows, columns)
            coefficients = self.coefficients[..., rows, columns].unsqueeze(-2)
            found = value(self._given(base, coefficients, neighbours.unsqueeze(-2)))
            return self.base.centred(found).squeeze(-2)

        image = pixel_after_pixel(pixels, self.batch_shape + self.event_shape, self.base.locs)
        return self.base.intensities(image)


LIKELIHOODS["local_autoregressive"] = LocalAutoregressive()
