"""A term of the training loss that bypasses the memory: the loss of an autoencoder of a pair's encoder and decoder."""

from __future__ import annotations

from typing import Any

from pyro.infer import ELBO
from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from kpp_pyro.writes.interface import Encoding
from models.memory_model import MemoryGuide, MemoryModel


def bypass_loss(model: MemoryModel, guide: MemoryGuide, encoding: Encoding, episode: Tensor) -> Tensor:
    """-ln p(x | z) in nats, (B, T), with z the mode of q(z | X): what the decoder makes of an image's own encoding."""
    return -model.image_likelihood(guide.latent_posterior(encoding).mode).log_prob(episode)


class Bypassed(ELBO):
    """A bound whose gradient is that of the loss -bound + weight * sum_t -ln p(x_t | mode of q(z_t | X)).

    Its value is -bound alone: what is reported of training stays a bound. The images are encoded once for both.

    Args:
        bound: the objective.
        weight: above 0.
    """

    def __init__(self, bound: ELBO, weight: float) -> None:
        super().__init__(bound.num_particles, bound.max_plate_nesting)
        self.bound: Any = bound
        self.weight = weight

    def __call__(self, model: nn.Module, guide: nn.Module) -> ELBOModule:
        """The loss of a model and its guide; the bound may refuse them."""
        self.bound(model, guide)
        return super().__call__(model, guide)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """-bound in nats, summed over images, of an episode (B, T, C, H, W), with the gradient of both losses."""
        (episode,) = args
        encoding = guide.encode(episode)
        loss = self.bound.differentiable_loss(model, guide.amortize_encoded(encoding), episode)
        term = self.weight * bypass_loss(model, guide, encoding, episode).sum()
        return loss + (term - term.detach())

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.bound._get_trace(model, guide, args, kwargs)
