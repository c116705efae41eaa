"""Memories that are random: scores given a draw of them, what they cost, and rivals as memories to use."""

from __future__ import annotations

import pytest
import torch
from torch import Size, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from inference.importance.scoring import ScoringPlan, sample_memory, score_episodes
from inference.metrics.elbo import mean_elbo
from inference.tracing import elbo_terms, seed_of, terms_of, trace_pair, written_memory
from inference.trained_memory import TrainedMemory
from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import cut_blocks
from kpp_pyro.posteriors.families import MeanFieldPosterior
from kpp_pyro.priors.keys import StandardNormalPrior
from models.dynamic_kanerva_machine import DynamicKanervaMachineGuide, DynamicKanervaMachineModel
from models.matrix_memory import LinearMemory
from models.memory_model import GuideNetworks
from models.pair import Pair
from models.pseudo_inverse_memory import PseudoInverseMemoryGuide, PseudoInverseMemoryModel
from models.registry import MODELS
from tests.experiments.joined import quick_search
from tests.programs import random_episodes, small_pair

MATRIX = ("kanerva_machine", "dynamic_kanerva_machine", "pseudo_inverse_memory")
MEMORYLESS = [name for name, kind in MODELS.items() if not kind.has_memory]
SOLVED = ("dynamic_kanerva_machine", "pseudo_inverse_memory")
ROWS, LATENT, IMAGES, SEED = 4, 5, 6, 4
TINY_SHAPE = (1, 2, 2)
matrix_models = pytest.mark.parametrize("model", MATRIX)
solved_keys = pytest.mark.parametrize("model", SOLVED)


def rival(model: str, **changes: object) -> Pair:
    sizes: dict[str, object] = {"latent_size": LATENT, "latent_context": "image"}
    used = {"memory_rows": ROWS, "key_size": 3}
    sizes |= {name: size for name, size in used.items() if name in MODELS[model].settings}
    return small_pair(model=model, **{**sizes, **changes})


def hand_made(model, image_shape, rows, latent_size, decoder):
    """A machine whose encoder is the image itself, with random or identical heads."""
    prior = StandardNormalPrior(Size([rows]), image_shape)
    latents, pixels = MeanFieldPosterior(1, Size([latent_size])), torch.Size(image_shape).numel()
    networks = GuideNetworks(nn.Flatten(2), pixels, latents)
    linear = LinearMemory(rows, latent_size, None, 0.05)
    arguments = (linear, prior, decoder, image_shape)
    if model == "dynamic_kanerva_machine":
        ours = DynamicKanervaMachineModel(*arguments)
        guide = DynamicKanervaMachineGuide(linear, networks)
    else:
        ours = PseudoInverseMemoryModel(*arguments)
        guide = PseudoInverseMemoryGuide(linear, networks, steps=24)
    return Pair(ours.double(), guide.double())


def scalar_program(model):
    """With latents of one scalar, z | M ~ N(0, sum M^2 + sigma^2), so that ln p(x | M) is an integral over z alone."""
    decoder = nn.Sequential(nn.Linear(1, 4), nn.Unflatten(-1, TINY_SHAPE))
    decoder[0].weight.data = torch.tensor([[2.0], [-1.0], [2.0], [1.6]])
    program = hand_made(model, TINY_SHAPE, 3, 1, decoder)
    scales = [program.model.linear.raw_noise, program.guide.raw_key_scale]
    for scale in [*scales, program.guide.raw_memory_scale] if model == "pseudo_inverse_memory" else scales:
        scale.data.fill_(2.5)  # about one: posteriors as wide as their priors, and weights without a tail
    program.guide.to_content.network.linear.bias.data[1] = 2.5
    return program


@torch.no_grad()
def log_evidence(model, memory, episode):
    """ln p(x | M) of images (B, T, ...) and memories (B, 1, N, 1), by quadrature."""
    latent = torch.linspace(-12, 12, 4001, dtype=torch.float64).view(-1, 1, 1, 1)
    scale = (memory.square().sum((-2, -1)) + model.linear.noise.square()).sqrt()  # (B, 1)
    density = Normal(0.0, scale).log_prob(latent.squeeze(-1)) + model.image_likelihood(latent).log_prob(episode)
    return torch.trapezoid(density.exp(), latent.flatten(), dim=0).log()


def tiny_episodes(seed=3):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(2, 3, *TINY_SHAPE, dtype=torch.float64, generator=generator) < 0.5).double()


@solved_keys
def test_scores_are_conditional_on_one_memory_that_each_episode_drew(model):
    program, episode = scalar_program(model), tiny_episodes()
    counted = torch.tensor([[True, True, True], [True, False, True]])
    plan = ScoringPlan(particles=1000, control_particles=0)
    scores = score_episodes(program.model, program.guide, [(episode, counted)], plan, SEED)
    torch.manual_seed(seed_of(SEED, 0))
    memory = sample_memory(program.model, program.guide, episode).value
    assert memory.shape == (2, 1, 3, 1)
    exact = log_evidence(program.model, memory, episode)[counted]
    other = log_evidence(program.model, sample_memory(program.model, program.guide, episode).value, episode)[counted]
    score, tolerance = scores.own.log_likelihood, 5 * scores.own.monte_carlo_error
    assert ((score - exact).abs() < tolerance).all()
    assert ((score - other).abs() > tolerance).any()  # one draw of the memory is not another


@solved_keys
def test_the_conditional_elbo_is_below_what_it_bounds(model):
    program, episode = scalar_program(model), tiny_episodes()
    memory = sample_memory(program.model, program.guide, episode).value
    with torch.no_grad():
        draws = terms_of(trace_pair(program.model, program.guide, episode, memory, 400).log_probs()).elbo
    exact = log_evidence(program.model, memory, episode)
    assert (draws.mean(0) < exact + 4 * draws.std(0) / 20).all()


@matrix_models
def test_the_controls_of_a_random_memory_are_conditional_too(model):
    program, episode = rival(model), random_episodes(2, 3)
    counted = torch.ones(2, 3, dtype=torch.bool)
    plan = ScoringPlan(particles=20, control_particles=10)
    with quick_search():
        scores = score_episodes(program.model, program.guide, [(episode, counted)], plan, SEED)
    assert set(scores.by_memory) == {"own", "left_out", "other", "empty"}
    for score in scores.by_memory.values():
        assert score.log_likelihood.shape == (6,)
        assert score.log_likelihood.isfinite().all()
        assert set(score.elbo.kl) == {"key", "latent"}  # the memory is given


def closed_kl(program, episode):
    """KL(q(M|X) || p(M)) by torch's normals, column by column, (B,)."""
    q, model = program.guide.memory_posterior(program.guide.encode(episode)), program.model
    columns = MultivariateNormal(q.loc.squeeze(1).mT, q.row_tril @ q.row_tril.mT)  # (B, D) of (N,)
    eye = torch.eye(len(model.linear.memory_loc), dtype=torch.float64)
    prior = MultivariateNormal(model.linear.memory_loc.mT, model.linear.memory_scale.square() * eye)
    return kl_divergence(columns, prior).sum(-1).detach()


@matrix_models
def test_the_memorys_kl_is_closed_and_shared_by_all_images_of_its_episode(model):
    program, batches = rival(model), [random_episodes(2, IMAGES), random_episodes(1, IMAGES, seed=2)]
    counted = [torch.ones(2, IMAGES, dtype=torch.bool), torch.ones(1, IMAGES, dtype=torch.bool)]
    counted[1][0, 2:] = False  # filling is no image, but the memory was written from it too
    plan = ScoringPlan(particles=2, control_particles=0)
    scores = score_episodes(program.model, program.guide, zip(batches, counted, strict=True), plan, SEED)
    shares = [closed_kl(program, episode)[:, None].expand(-1, IMAGES) / IMAGES for episode in batches]
    expected = torch.cat([share[chosen] for share, chosen in zip(shares, counted, strict=True)])
    torch.testing.assert_close(scores.memory_kl, expected)
    assert len(scores.complete.log_likelihood) == len(expected)


@pytest.mark.parametrize(
    "changes", [{"write": "allocate"}, {"write": "feed_forward"}, *({"model": name} for name in MEMORYLESS)]
)
def test_a_memory_that_is_not_random_costs_nothing_that_could_be_stated(changes):
    program, episode = small_pair(**changes), random_episodes(2, 3)
    assert sample_memory(program.model, program.guide, episode) is None
    plan = ScoringPlan(particles=2, control_particles=0)
    scores = score_episodes(program.model, program.guide, [(episode, torch.ones(2, 3, dtype=torch.bool))], plan)
    assert scores.memory_kl is None
    assert scores.complete is None


@matrix_models
def test_a_memory_gain_compares_conditional_elbos(model):
    program, episode = rival(model), random_episodes(3, IMAGES)
    results = mean_elbo(program.model, program.guide, [(episode, torch.ones(3, IMAGES, dtype=torch.bool))], SEED)
    with torch.no_grad():
        torch.manual_seed(seed_of(SEED, 0))
        memory = trace_pair(program.model, program.guide, episode).value("memory")
        other = elbo_terms(program.model, program.guide, episode, memory.roll(1, 0))
        torch.manual_seed(seed_of(SEED, 0))
        own = elbo_terms(program.model, program.guide, episode)
    assert set(own.kl) == {"memory", "key", "latent"}
    assert set(other.kl) == {"key", "latent"}
    conditional = own.reconstruction - own.kl["key"] - own.kl["latent"]
    expected = {
        "memory_gain": conditional - other.elbo,
        "conditional_elbo": conditional,
        "elbo": conditional - own.kl["memory"],
        "kl_memory": own.kl["memory"],
    }
    for name, value in expected.items():
        assert results[f"{name}_nats_per_image"] == pytest.approx(value.mean().item()), name


def test_a_single_random_memory_and_none_at_all_have_no_gain():
    counted = torch.ones(2, IMAGES, dtype=torch.bool)
    for name, episodes in (("dynamic_kanerva_machine", 1), *((name, 2) for name in MEMORYLESS)):
        program = rival(name)
        batch = random_episodes(episodes, IMAGES), counted[:episodes]
        assert "memory_gain_nats_per_image" not in mean_elbo(program.model, program.guide, [batch])


def opened(model):
    program = rival(model)
    return TrainedMemory(program.model, program.guide)


def keys_by_hand(memories, memory, cues):
    """Mode of q(y | x, M), for memories (B, N, D)."""
    guide = memories.guide
    encoding = guide.encode(cues)
    if isinstance(guide, DynamicKanervaMachineGuide):
        gram = memory @ memory.mT + memories.model.linear.noise.square() * torch.eye(ROWS, dtype=torch.float64)
        return encoding.latent_loc @ memory.mT @ gram.inverse()
    if isinstance(guide, PseudoInverseMemoryGuide):
        return encoding.latent_loc @ torch.linalg.pinv(memory)
    return guide.to_key(encoding.features)[0]


def read_by_hand(memories, memory, keys):
    latents = memories.model.linear.row_weights(keys) @ memory
    return latents, memories.model.decoder(latents).sigmoid()


@matrix_models
def test_a_rival_writes_a_draw_of_its_memory_and_recalls_by_hand(model):
    memories, episodes, cues = opened(model), random_episodes(2, IMAGES), random_episodes(2, 3, seed=5)
    memory = memories.write(episodes, SEED)
    torch.manual_seed(SEED)
    assert torch.equal(memory.value, written_memory(memories.guide, episodes).squeeze(1))
    assert memory.value.shape == (2, ROWS, LATENT)
    reads, seen = memories.recall(memory, cues, steps=3), cues
    with torch.no_grad():
        for read in reads:
            keys = keys_by_hand(memories, memory.value, seen)
            latents, seen = read_by_hand(memories, memory.value, keys)
            torch.testing.assert_close(read.keys, keys)
            torch.testing.assert_close(read.latents, latents)
            torch.testing.assert_close(read.images, seen)
    torch.testing.assert_close(memories.locate(memory, cues), reads[0].keys)
    torch.testing.assert_close(memories.read(memory, reads[1].keys).images, reads[1].images)
    single = memories.recall(memory[1], cues[1])[0]
    torch.testing.assert_close(single.images, reads[0].images[1])


@matrix_models
def test_a_rival_completes_cues_with_the_known_pixels_put_back(model):
    memories, cues = opened(model), random_episodes(1, 3, seed=5)[0]
    memory = memories.write(random_episodes(1, IMAGES)[0])
    mask = torch.zeros_like(cues, dtype=torch.bool)
    mask[..., :4, :] = True
    first, second = memories.complete(memory, cues.masked_fill(mask, torch.nan), mask, steps=2)
    known_mean = cues[..., 4:, :].mean((-3, -2, -1), keepdim=True)
    for read, seen in ((first, torch.where(mask, known_mean, cues)), (second, torch.where(mask, first.images, cues))):
        torch.testing.assert_close(read.images, memories.recall(memory, seen)[0].images)


@matrix_models
def test_a_rival_generates_from_its_prior_of_keys_and_walks_between_cues(model):
    memories = opened(model)
    memory, cues = memories.write(random_episodes(1, IMAGES)[0]), random_episodes(1, 2, seed=5)[0]
    torch.manual_seed(SEED)
    drawn = memories.generate(memory, 7)
    torch.manual_seed(SEED)
    with torch.no_grad():
        keys = torch.randn(1, 7, *memories.model.key_shape, dtype=torch.float64)
        loc, _ = read_by_hand(memories, memory.value, keys)
        latents = loc + memories.model.linear.noise * torch.randn_like(loc)
        torch.testing.assert_close(drawn.keys, keys[0])
        torch.testing.assert_close(drawn.latents, latents[0])
        torch.testing.assert_close(drawn.images, memories.model.decoder(latents).sigmoid()[0])
    ends = memories.locate(memory, cues)
    walk = memories.interpolate(memory, cues[0], cues[1], 3)
    torch.testing.assert_close(walk.keys, torch.stack([ends[0], ends.mean(0), ends[1]]))
    torch.testing.assert_close(walk.images, memories.read(memory, walk.keys).images)
    latents = memories.interpolate(memory, cues[0], cues[1], 3, through="latents").latents
    torch.testing.assert_close(latents[1], (latents[0] + latents[2]) / 2)


@matrix_models
def test_a_rivals_memory_survives_a_file_and_belongs_to_its_model(model, tmp_path):
    memories, cues = opened(model), random_episodes(1, 2, seed=5)[0]
    memory = memories.write(random_episodes(1, IMAGES)[0])
    memory.save(tmp_path / "memory.safetensors")
    loaded = memories.load(tmp_path / "memory.safetensors")
    assert torch.equal(loaded.value, memory.value)
    assert torch.equal(memories.recall(loaded, cues)[0].images, memories.recall(memory, cues)[0].images)
    program = rival(model, seed=1)
    with pytest.raises(InputError, match="expected one written by this model"):
        TrainedMemory(program.model, program.guide).load(tmp_path / "memory.safetensors")


@matrix_models
def test_a_rivals_memory_has_no_blocks_to_inspect(model):
    memories = opened(model)
    name = type(memories.model).__name__
    with pytest.raises(InputError) as error:
        memories.inspect(memories.write(random_episodes(1, IMAGES)[0]))
    assert str(error.value) == f"{name}: expected a memory of blocks, found one without"


@pytest.mark.parametrize("model", MEMORYLESS)
def test_a_model_without_a_memory_is_none_to_use(model):
    name = type(rival(model).model).__name__
    with pytest.raises(InputError, match=f"^{name}: expected a model with a memory, found one without$"):
        opened(model)


def attractor(model):
    """Latents are pixels; as many rows as patterns, so that nothing else is held; a sharp decoder."""
    shape, pixels = (1, 4, 4), 16

    class Sharp(nn.Module):
        def forward(self, latent):
            return 12 * (latent - 0.5).unflatten(-1, shape)

    program = hand_made(model, shape, 3, pixels, Sharp())
    linear = program.guide.to_content.network.linear
    linear.weight.data = torch.cat([torch.eye(pixels), torch.zeros(pixels, pixels)]).double()
    linear.bias.data.zero_()
    program.model.linear.raw_noise.data.fill_(-9.0)  # the least noise there is
    return TrainedMemory(program.model, program.guide)


@solved_keys
def test_reading_again_brings_a_corrupted_cue_nearer_to_the_pattern_that_was_stored(model):
    memories = attractor(model)
    if model == "pseudo_inverse_memory":
        memories.guide.raw_memory_scale.data.fill_(-9.0)
    patterns = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    patterns[0, 0, :2], patterns[1, 0, :, 2:], patterns[2, 0, ::2] = 1, 1, 1
    cues = patterns.clone()
    cues[:, 0, 1, 1], cues[:, 0, 2, 3] = 1 - cues[:, 0, 1, 1], 1 - cues[:, 0, 2, 3]
    memory = memories.write(patterns)
    reads = memories.recall(memory, cues, steps=6)
    distances = torch.stack([(images - patterns).square().sum((-3, -2, -1)) for images in (r.images for r in reads)])
    assert ((cues - patterns).square().sum((-3, -2, -1)) == 2).all()
    assert (distances[0] < 0.5).all()
    assert (distances[1] < 0.1 * distances[0]).all()
    assert (distances[-1] < 1e-3).all()
    assert torch.equal(reads[-1].images.round(), patterns)


def test_cues_of_a_random_memory_of_blocks_read_the_mean_of_the_blocks_that_they_may_be_in():
    pair, episode = small_pair(memory_prior="standard_normal", episode_length=IMAGES), random_episodes(2, IMAGES)
    memories, size = TrainedMemory(pair.model, pair.guide), pair.guide.write.latent_size
    memory = memories.write(episode, SEED)
    with torch.no_grad():
        encoding = pair.guide.encode(episode)
        blocks = cut_blocks(memory.value, pair.model.addressing.layout).flatten(2)[:, :IMAGES]  # (B, N, S)
        away = (encoding.latent_loc.unsqueeze(2) - blocks.unsqueeze(1)) / encoding.latent_scale.unsqueeze(2)
        square = away.square().sum(-1)  # (B, T, N)
        probs = (-square / (2 * (square.min(-1, keepdim=True).values / size).clamp(min=1))).softmax(-1)
        assert torch.equal(probs.argmax(-1), torch.arange(IMAGES).expand(2, -1))
        read = memories.recall(memory, episode)[0]
        torch.testing.assert_close(read.latents, probs @ blocks)
        torch.testing.assert_close(read.images, pair.model.decoder(probs @ blocks).sigmoid())
