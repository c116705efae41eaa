"""Images of grey levels: each channel of a pixel a discretized logistic, mixed and coupled as in PixelCNN++.

The unit of levels, locations and scales is a centred grey level: level k of L is k - (L - 1) / 2, which is exact in
float32, and the middle of the range is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from kpp_pyro.fast_pyro import ExpandsOnce

_IMAGE_DIMS = 3  # (C, H, W)
_TOLERANCE = 1e-3  # in grey levels; k / 255 is within 2e-5 in float32, and within 0.5 in bfloat16


class LogisticImage(ExpandsOnce, TorchDistribution):
    """Images of L grey levels with independent pixels, each a mixture of coupled discretized logistics.

        k   ~ Categorical(weights)                                      for each pixel
        y_c ~ Logistic(loc_kc + sum_{j<c} coupling_kcj y_j, scale_kc)   rounded, and clamped to the range, c = 1 .. C

    Salimans et al. 2017 (PixelCNN++, arXiv:1701.05517), equations 2 and 3. A channel is rounded and clamped before the
    next one sees it. The tails beyond the first and the last level belong to these levels: probabilities sum to one.

    Args:
        log_weights: of the K components, normalised, (..., K, H, W).
        locs: in centred grey levels, (..., K, C, H, W).
        scales: in grey levels, (..., K, C, H, W).
        couplings: of the pairs of channels (c, j) = (2, 1), (3, 1), (3, 2), ..., (..., K, C (C - 1) / 2, H, W).
        levels: L. Values are intensities k / (L - 1), float, with whole k from 0 to L - 1.
        validate_args: as in any Pyro distribution: refuse intensities more than 1e-3 grey levels from a level. Without
            validation they count as the nearest one.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "log_weights": constraints.independent(constraints.real, 3),
        "locs": constraints.independent(constraints.real, 4),
        "scales": constraints.independent(constraints.positive, 4),
        "couplings": constraints.independent(constraints.real, 4),
    }

    def __init__(
        self,
        log_weights: Tensor,
        locs: Tensor,
        scales: Tensor,
        couplings: Tensor,
        levels: int,
        validate_args: bool | None = None,
    ) -> None:
        self.log_weights, self.locs, self.scales, self.couplings = log_weights, locs, scales, couplings
        self.levels = levels
        super().__init__(locs.shape[:-4], locs.shape[-_IMAGE_DIMS:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Images of intensities k / (L - 1)."""
        return constraints.independent(_Intensities(self.levels), _IMAGE_DIMS)

    @property
    def mean(self) -> Tensor:
        """Mean intensities in [0, 1], as a rule between levels, (..., C, H, W); a stand-in where tails reach an edge.

        Each component's locations, clamped to the range, are fed from channel to channel and averaged by weight.
        Locations are linear in the channels before. So this is the mean, except that tails beyond the range are not
        moved to its edges, and that rounding shifts the mean of a scale below about half a level.
        """
        components = self._fed_forward(lambda loc, _: loc)  # (..., K, C, H, W)
        mean = (self.log_weights.exp().unsqueeze(-_IMAGE_DIMS) * components).sum(-4)
        return self.intensities(mean).clamp(0, 1)  # weights sum to one up to rounding

    @property
    def mode(self) -> Tensor:
        """The most probable component's locations, rounded to levels and fed forward, (..., C, H, W)."""
        chosen = self._component(self.log_weights.argmax(-3, keepdim=True))
        return self.intensities(chosen._fed_forward(lambda loc, _: self._rounded(loc)).squeeze(-4))

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """Draw intensities (sample_shape, ..., C, H, W), each of them a level."""
        wide = self.expand(Size(sample_shape) + self.batch_shape)
        gumbel = -torch.rand_like(wide.log_weights).log().neg().log()  # the largest ln w + gumbel is at a draw of w
        chosen = wide._component((wide.log_weights + gumbel).argmax(-3, keepdim=True))

        def draw(loc: Tensor, scale: Tensor) -> Tensor:
            return self._rounded(loc + scale * torch.rand_like(loc).logit())

        return self.intensities(chosen._fed_forward(draw).squeeze(-4))

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(x | z) of images (..., C, H, W) in nats, (...).

        Raises:
            ValueError: images of whole numbers or truth values, which would wrap around.
        """
        if not value.is_floating_point():
            raise ValueError(f"images: expected floats k / {self.levels - 1}, found {value.dtype}")
        if self._validate_args:
            self._validate_sample(value)
        levels = self.nearest_levels(value).unsqueeze(-4).unbind(-_IMAGE_DIMS)
        log_joint = self.log_weights  # of the component and the channels so far, (..., K, H, W)
        for level, (loc, scale, couplings) in zip(levels, self._channels(), strict=True):
            log_joint = log_joint + log_probability(level, _coupled(loc, couplings, levels), scale, self._edge)
        return log_joint.logsumexp(-3).flatten(-2).sum(-1)

    def nearest_levels(self, intensities: Tensor) -> Tensor:
        """The levels nearest to intensities, centred."""
        return self._rounded(self.centred(intensities))

    def centred(self, intensities: Tensor) -> Tensor:
        """Centred grey levels of intensities, which need not be levels."""
        return intensities * (self.levels - 1) - self._edge

    def intensities(self, centred: Tensor) -> Tensor:
        """Intensities in [0, 1] of centred grey levels."""
        return (centred + self._edge) / (self.levels - 1)

    def at_pixels(self, rows: Tensor, columns: Tensor) -> LogisticImage:
        """The pixels at n rows and columns, as images of height 1 and width n."""
        log_weights = self.log_weights[..., rows, columns].unsqueeze(-2)
        return self._with(log_weights, lambda tensor: tensor[..., rows, columns].unsqueeze(-2))

    def around(self, locs: Tensor) -> LogisticImage:
        """The same with locations (..., K, C, H, W), in which y_c is coupled to the errors y_j - loc_j, not to y_j."""
        channels: Sequence[Tensor] = locs.unbind(-_IMAGE_DIMS)
        each = zip(channels, self._channels(), strict=True)
        uncoupled = [_coupled(loc, [-c for c in couplings], channels) for loc, (_, _, couplings) in each]
        locs = torch.stack(uncoupled, -_IMAGE_DIMS)
        return LogisticImage(self.log_weights, locs, self.scales, self.couplings, self.levels, validate_args=False)

    def _expanded(self, batch_shape: Size) -> LogisticImage:
        log_weights = self.log_weights.expand(batch_shape + self.log_weights.shape[-3:])
        return self._with(log_weights, lambda tensor: tensor.expand(batch_shape + tensor.shape[-4:]))

    def _component(self, index: Tensor) -> LogisticImage:
        """One component for each pixel, by its index (..., 1, H, W)."""
        certain, index = torch.zeros_like(index, dtype=self.log_weights.dtype), index.unsqueeze(-_IMAGE_DIMS)
        return self._with(certain, lambda tensor: torch.take_along_dim(tensor, index, -4))

    def _with(self, log_weights: Tensor, change: Callable[[Tensor], Tensor]) -> LogisticImage:
        """The same with other weights, and with `change` applied to locations, scales and couplings."""
        locs, scales, couplings = change(self.locs), change(self.scales), change(self.couplings)
        return LogisticImage(log_weights, locs, scales, couplings, self.levels, validate_args=False)

    def _channels(self) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
        """Location, scale and couplings of each channel in turn, (..., K, H, W) each.

        They are unbound: indexing would fill a tensor of all channels with zeros for each channel's gradient.
        """
        pairs = iter(self.couplings.unbind(-_IMAGE_DIMS))
        each = zip(self.locs.unbind(-_IMAGE_DIMS), self.scales.unbind(-_IMAGE_DIMS), strict=True)
        for channel, (loc, scale) in enumerate(each):
            yield loc, scale, tuple(islice(pairs, channel))

    def _fed_forward(self, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The `value` of each channel's location and scale, which the next channel sees, (..., K, C, H, W)."""
        channels: list[Tensor] = []
        for loc, scale, couplings in self._channels():
            channels.append(value(_coupled(loc, couplings, channels), scale).clamp(-self._edge, self._edge))
        return torch.stack(channels, -_IMAGE_DIMS)

    @property
    def _edge(self) -> float:
        """The last level, (L - 1) / 2; the first one is its negative."""
        return (self.levels - 1) / 2

    def _rounded(self, value: Tensor) -> Tensor:
        return (value + self._edge).round() - self._edge


def _coupled(loc: Tensor, couplings: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """Location of a channel, given the channels before it."""
    for coupling, channel in zip(couplings, before, strict=False):  # `before` may hold later channels too
        loc = torch.addcmul(loc, coupling, channel)
    return loc


def log_probability(level: Tensor, loc: Tensor, scale: Tensor, edge: float) -> Tensor:
    """ln P(level) in nats under a discretized logistic with bins of width 1; tensors broadcast.

    If a and b are the bin's upper and lower edge, less the location, over the scale s, then a - b = 1 / s and

        P = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(-1 / s)).

    The product neither cancels nor underflows, however far the level is: in float32, ln P is exact to about 1e-6 of its
    value. The lower edge of the first bin and the upper edge of the last one are infinite. The mathematics are those of
    `QuantizedDistribution` in TensorFlow Probability.

    Args:
        level: in centred grey levels.
        loc: in centred grey levels.
        scale: s, in grey levels.
        edge: the last level; the first one is -edge.
    """
    inverse = scale.reciprocal()
    offset, half_bin = (level - loc) * inverse, inverse / 2
    log_below = F.logsigmoid(offset + half_bin)  # ln sigmoid(a)
    log_above = F.logsigmoid(half_bin - offset)  # ln sigmoid(-b)
    log_inside = log_below + log_above + torch.log(-torch.expm1(-inverse))
    return torch.where(level <= -edge, log_below, torch.where(level >= edge, log_above, log_inside))


class _Intensities(constraints.Constraint):
    """Intensities k / (L - 1) with whole k from 0 to L - 1."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each intensity is a level; NaN is none."""
        grey = value * (self.levels - 1)
        level = grey.round()
        return ((grey - level).abs() <= _TOLERANCE) & (level >= 0) & (level <= self.levels - 1)
