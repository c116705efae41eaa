"""The smallest valid reports, by script; "from_prior" is that of generate.py --from-prior."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, Any] = {
    "dataset": "digits",
    "split": "test",
    "episode_length": 32,
    "classes_per_episode": None,
    "binarization": "static",
    "seed": 0,
    "model": "kanerva_plus_plus",
    "write": "allocate",
    "reads": 1,
    "precision": "float32",
    "memory_scalars": 3200,
    "parameters": 10,
    "image_shape": [1, 8, 8],
}
SCORE = {
    "log_likelihood_nats_per_image": -4.0,
    "log_likelihood_standard_error": 0.1,
    "elbo_nats_per_image": -4.5,
    "pareto_k_limit": 0.6,
    "pareto_k_above_limit_share": 0.0,
    "trustworthy": True,
    "bounds": [
        {"particles": 10, "log_likelihood_nats_per_image": -4.2, "log_likelihood_standard_error": 0.1},
    ],
}
COMPLETE = {
    "particles": 10,
    "log_likelihood_nats_per_image": -90.5,
    "log_likelihood_standard_error": 0.5,
    "elbo_nats_per_image": -91.5,
    "pareto_k_limit": 0.5,
    "pareto_k_above_limit_share": 0.25,
    "trustworthy": False,
    "log_likelihood_by_position_nats_per_image": [-92.0, -89.0],
    "elbo_by_position_nats_per_image": [-93.0, -90.0],
    "log_likelihood_by_images_of_class_before_nats_per_image": [-92.0, None],
    "elbo_by_images_of_class_before_nats_per_image": [-93.0, None],
}
ERRORS = {
    "wrong_pixels_per_image": [1.5],
    "wrong_pixels_per_image_standard_error": [0.5],
    "nats_per_image": [3.5],
    "nats_per_image_standard_error": [None],
    "found_share": [1.0],
}
SAMPLES = {
    "coverage_share": 0.5,
    "coverage_by_samples": [0.25, 0.5],
    "samples_by_wrong_pixels_to_nearest_written": [1, 1],
    "samples_by_wrong_pixels_to_nearest_training": [0, 2],
}
RATIOS = {"within_to_between_ratio": None, "nearest_within_to_between_ratio": 0.5}
REPORTS: dict[str, dict[str, Any]] = {
    "evaluate": {
        "settings": {
            **SETTINGS,
            "images": 64,
            "particles": 10,
            "content_bits": None,
            "content_steps": 0,
            "refine_steps": 0,
            "temperatures": 0,
        },
        "scores": {"own": SCORE, "other": SCORE},
        "limit_nats_per_image": -3.5,
        "complete": COMPLETE,
        "per_image": {"pareto_k": [0.1, None]},
        "environment": {
            "libraries": {"torch": "2.11"},
            "python": "3.11",
            "machine": "x86_64",
            "cpu_threads": 1,
            "cuda_device": None,
            "git_commit": None,
        },
    },
    "denoise": {
        "settings": {**SETTINGS, "images": 64, "steps": 5},
        "results": [
            {
                "corruption": "salt_and_pepper",
                "strength": 0.2,
                "cue_wrong_pixels_per_image": 6.5,
                "recall": ERRORS,
                "completion": None,
                "memoryless": ERRORS,
                "nearest_written": ERRORS,
                "iterating": {"drifted_share": 0.5, "drifted_standard_error": None},
            }
        ],
    },
    "generate": {
        "settings": {**SETTINGS, "samples": 2, "memories": 1, "clean_up": 3},
        "results": {"prior": SAMPLES, "cleaned_up": SAMPLES},
        "near_wrong_pixels": 3.5,
        "written_to_nearest_training_wrong_pixels": 7.5,
    },
    "from_prior": {
        "settings": {**SETTINGS, "memory_prior": "autoregressive", "memories": 1, "temperature": 1.0},
        "results": {name: RATIOS for name in ("sampled", "read_back", "real")},
    },
}
