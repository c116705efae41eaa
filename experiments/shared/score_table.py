"""The printed table of `evaluate.py`: scores and how reliable they are."""

from __future__ import annotations

import math
from typing import Any

from experiments.shared.arguments import describe_images, number
from inference.importance.scoring import COMPLETE, MEANINGS, OWN, PREDICTED
from kpp_pyro.likelihoods import bits_per_dim, kl_sites
from models.registry import MODELS

_NO_MEMORY = "ln p(x_t): this model has no memory"
_ADVICE = (
    "the score is unreliable: k-hat is above {limit:.2f} for {share:.0%} of the images, whose estimates depend on "
    "a few draws. It is a lower bound; more --particles raise it, and {more}"
)


def describe_scores(content: dict[str, Any]) -> str:
    """The content of evaluation.json as text, with a warning where the score is unreliable."""
    settings, scores = content["settings"], content["scores"]
    has_memory = settings["memory_scalars"] > 0
    has_prior = content["complete"] and MODELS[settings["model"]].has_blocks
    meanings = {**MEANINGS, **(PREDICTED if has_prior else {})}
    lines = [_heading(settings), ""]
    for name, score in scores.items():
        lines.append(_estimate(name, score, settings))
        lines.append(f"            {meanings[name] if has_memory else _NO_MEMORY}")
    if has_memory and content["complete"]:
        lines += _complete(content["complete"], settings)
    limit = content["limit_nats_per_image"]
    if has_memory and limit:
        lines.append(f"  -ln T     {limit:>10.2f}   a perfect memory: which of the T images it is")
    own = scores[OWN]
    lines += [
        "",
        f"{'Own memory: ' if has_memory else ''}ELBO {own['elbo_nats_per_image']:.2f} ({_terms(own)}), "
        f"Monte-Carlo error {number(own['monte_carlo_error_nats_per_image'], 4)}; "
        f"{-content['log_likelihood_bits_per_dim']:.4f} bits per dim; "
        f"median k-hat {number(own['pareto_k_median'])}, median effective sample size "
        f"{own['effective_sample_size_median']:.0f} of {settings['particles']:,}.",
    ]
    if content["memory_kl_nats_per_image"] is not None:
        lines.append(
            f"The memory is random. All scores but the complete one are conditional on a draw of it; its own KL is "
            f"{content['memory_kl_nats_per_image']:.2f} nats per image."
        )
    if content["gaps"]:
        lines.append(_gaps(content["gaps"]))
    if math.isnan(own["pareto_k_median"]):
        lines.append("WARNING: k-hat, and so the reliability of the score, needs more --particles to be estimated.")
    elif not own["trustworthy"]:
        more = "RUN/figures/pareto_k.png shows k-hat." if content["gaps"] else "--gaps adds refined posteriors."
        share, limit = own["pareto_k_above_limit_share"], own["pareto_k_limit"]
        lines.append("WARNING: " + _ADVICE.format(share=share, limit=limit, more=more))
    seconds, rate = content["seconds"], content["particle_images_per_second"]
    controls = f", {sum(seconds.values()) - seconds[OWN]:.0f} s for the others" if len(seconds) > 1 else ""
    lines.append(f"{seconds[OWN]:.0f} s ({rate:,} particle-images per second){controls}.")
    return "\n".join(lines)


def _estimate(name: str, score: dict[str, Any], settings: dict[str, Any]) -> str:
    """A score and its standard error, in nats per image and bits per dimension."""
    value, error = score["log_likelihood_nats_per_image"], score["log_likelihood_standard_error"]
    bits = f"{-bits_per_dim(value, settings['image_shape']):.4f} bits per dim"
    why = "k-hat unknown" if math.isnan(score["pareto_k_median"]) else f"k-hat > {number(score['pareto_k_limit'])}"
    mark = "" if score["trustworthy"] else f"  (lower bound, {why})"
    return f"  {name.replace('_', ' '):<9} {value:>10.2f} ± {number(error)} nats per image, {bits}{mark}"


def _complete(score: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """The complete score, and its course over the positions of an episode."""
    positions = score["log_likelihood_by_position_nats_per_image"]
    shown = sorted({2**power - 1 for power in range(10) if 2**power <= len(positions)} | {len(positions) - 1})
    course = ", ".join(f"{positions[index]:.2f} (image {index + 1})" for index in shown)
    of_class = score["log_likelihood_by_images_of_class_before_nats_per_image"]
    classes = ", ".join(f"{value:.2f} ({number})" for number, value in enumerate(of_class))
    return [
        _estimate("complete", score, settings),
        f"            {COMPLETE}; its ELBO is {score['elbo_nats_per_image']:.2f}",
        f"            by position in the episode: {course}",
        *([f"            by images of its class before it: {classes}"] if settings["classes_per_episode"] else []),
    ]


def _heading(settings: dict[str, Any]) -> str:
    annealed = f", {settings['temperatures']} temperatures" if settings["temperatures"] else ""
    return (
        f"{settings['images']:,} {describe_images(settings)}, "
        f"K = {settings['particles']:,}{annealed}, seed {settings['seed']}. "
        f"ln p(x{' | M' if settings['memory_scalars'] else ''}), higher is better:"
    )


def _terms(score: dict[str, Any]) -> str:
    named = [f"KL of {site} {score[name]:.2f}" for name, site in kl_sites(score).items()]
    return ", ".join([f"reconstruction {score['reconstruction_nats_per_image']:.2f}", *named])


def _gaps(gaps: dict[str, float]) -> str:
    return (
        f"Inference gap: amortisation {gaps['amortisation_gap_nats_per_image']:.3f} "
        f"± {number(gaps['amortisation_gap_standard_error'], 3)}, "
        f"approximation {gaps['approximation_gap_nats_per_image']:.3f} "
        f"± {number(gaps['approximation_gap_standard_error'], 3)} nats per image "
        f"(refined ELBO {gaps['refined_elbo_nats_per_image']:.2f})."
    )
