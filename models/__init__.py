"""Memory models as Pyro model/guide pairs, one file each: a line here registers a model."""

from __future__ import annotations

from models import dynamic_kanerva_machine, kanerva_machine, kanerva_plus_plus, pseudo_inverse_memory, vae
from models.registry import MODELS

MODELS["kanerva_plus_plus"] = kanerva_plus_plus.KIND
MODELS["kanerva_machine"] = kanerva_machine.KIND
MODELS["dynamic_kanerva_machine"] = dynamic_kanerva_machine.KIND
MODELS["pseudo_inverse_memory"] = pseudo_inverse_memory.KIND
MODELS["vae"] = vae.KIND
