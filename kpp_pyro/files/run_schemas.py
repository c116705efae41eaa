"""Schemas of a run's files: what the readers of a run folder rely on. Further fields are kept."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, model_validator
from torch import Tensor

from kpp_pyro.schema import Count, FileContent, Natural, NotNegative, Side

Number = float | None  # None: not finite, or not measured
Share = Annotated[float, Field(ge=0, le=1)]
StandardError = Annotated[float, Field(ge=0)] | None  # None: of a single image
Steps = Annotated[int, Field(ge=1, le=10**4)]
Split = Literal["test", "validation"]


class Sizes(FileContent):
    """Sizes of a pair, which config.json states beside the configuration."""

    image_shape: tuple[Side, Side, Side]


class PluginRecord(FileContent):
    """A plug-in that a run was trained with: absolute path of a file, or name of a module, and the file's SHA-256."""

    plugin: str
    sha256: str | None


class Version(FileContent):
    """The version of a config.json; version 1 did not state it."""

    version: int = 1
    config: dict[str, Any]
    plugins: tuple[PluginRecord, ...] = ()


class TrainedOn(FileContent):
    """The machine and the libraries that a run was last trained with."""

    cpu_threads: Count | None = None


class ConfigFile(Version):
    """config.json: the configuration, which `inference.Config` checks, and what it was trained on."""

    sizes: Sizes
    environment: TrainedOn | None = None
    earlier_environments: tuple[Any, ...] = ()


class MetricsRecord(FileContent):
    """A line of metrics.jsonl: the step, and quantities by their name."""

    __pydantic_extra__: dict[str, Number]
    step: Annotated[Natural, Field(le=10**9)]
    split: Literal["train", "validation", "test"]


class ReportSettings(FileContent):
    """The settings that every report states."""

    dataset: str
    split: Split
    episode_length: Count
    classes_per_episode: Count | None
    binarization: str
    seed: Natural
    model: str
    write: str
    reads: Count
    precision: str
    memory_scalars: Natural
    parameters: Natural
    image_shape: tuple[Side, Side, Side]


class Bound(FileContent):
    """The estimate of a smaller number of particles."""

    particles: Count
    log_likelihood_nats_per_image: float
    log_likelihood_standard_error: StandardError


class Estimate(FileContent):
    """An importance-sampled score, and how reliable it is."""

    log_likelihood_nats_per_image: float
    log_likelihood_standard_error: StandardError
    elbo_nats_per_image: float
    pareto_k_limit: Number
    pareto_k_above_limit_share: Share
    trustworthy: bool


class Score(Estimate):
    """The score of images given one kind of memory."""

    __pydantic_extra__: dict[str, Number]
    bounds: Annotated[list[Bound], Field(min_length=1)]


class Scores(FileContent):
    """Scores by the kind of memory."""

    __pydantic_extra__: dict[str, Score]
    own: Score


class EvaluationSettings(ReportSettings):
    """Settings of evaluate.py."""

    images: Count
    particles: Count
    content_bits: Count | None
    content_steps: Natural
    refine_steps: Natural
    temperatures: Natural


class PerImage(FileContent):
    """Quantities of each image."""

    __pydantic_extra__: dict[str, list[Number]]
    pareto_k: list[Number]


class Environment(FileContent):
    """The machine and the libraries of a report."""

    libraries: dict[str, str]
    python: str
    machine: str
    cpu_threads: Count
    cuda_device: str | None
    git_commit: str | None


class Complete(Estimate):
    """The complete score of images."""

    particles: Count
    log_likelihood_by_position_nats_per_image: Annotated[list[float], Field(min_length=1)]
    elbo_by_position_nats_per_image: Annotated[list[float], Field(min_length=1)]
    log_likelihood_by_images_of_class_before_nats_per_image: list[Number]
    elbo_by_images_of_class_before_nats_per_image: list[Number]


class Evaluation(FileContent):
    """evaluation.json."""

    settings: EvaluationSettings
    scores: Scores
    limit_nats_per_image: float
    complete: Complete | None = None
    per_image: PerImage
    environment: Environment


class DenoisingSettings(ReportSettings):
    """Settings of denoise.py."""

    images: Count
    steps: Steps


class Errors(FileContent):
    """Means over the images after each read, and their standard errors."""

    __pydantic_extra__: dict[str, list[Number]]
    nats_per_image: list[float]
    nats_per_image_standard_error: list[StandardError]

    @model_validator(mode="after")
    def _check_lengths(self) -> Errors:
        lists = (value for value in self.model_dump().values() if isinstance(value, list))
        if len({len(value) for value in lists}) > 1:
            raise ValueError("lists of equal length, one value for each read")
        return self


class WrongPixels(Errors):
    """Errors of binary images."""

    wrong_pixels_per_image: Annotated[list[float], Field(min_length=1)]
    wrong_pixels_per_image_standard_error: list[StandardError]


class SquaredErrors(Errors):
    """Errors of images of grey levels."""

    squared_error_per_dim: Annotated[list[NotNegative], Field(min_length=1)]
    squared_error_per_dim_standard_error: list[StandardError]
    psnr_db: list[Number]  # None: infinite, of no error
    psnr_db_standard_error: list[StandardError]


Kind = TypeVar("Kind", bound=Errors)


class DenoisingResult(FileContent, Generic[Kind]):
    """Errors with one corruption and strength."""

    corruption: str
    strength: NotNegative
    recall: Kind
    completion: Kind | None
    memoryless: Kind
    nearest_written: Kind
    iterating: dict[str, Number]


class BinaryDenoisingResult(DenoisingResult[WrongPixels]):
    """Errors of binary images."""

    cue_wrong_pixels_per_image: NotNegative


class LevelDenoisingResult(DenoisingResult[SquaredErrors]):
    """Errors of images of grey levels."""

    cue_squared_error_per_dim: NotNegative
    cue_psnr_db: Number


class Denoising(FileContent):
    """denoise.json, of binary images."""

    settings: DenoisingSettings
    results: Annotated[list[BinaryDenoisingResult], Field(min_length=1)]


class LevelDenoising(FileContent):
    """denoise.json, of images of grey levels."""

    settings: DenoisingSettings
    results: Annotated[list[LevelDenoisingResult], Field(min_length=1)]


class GenerationSettings(ReportSettings):
    """Settings of generate.py."""

    samples: Count
    memories: Count
    clean_up: Steps


class GenerationResult(FileContent):
    """Coverage and novelty of samples."""

    coverage_share: Share
    coverage_by_samples: list[Share]


class BinaryGenerationResult(GenerationResult):
    """Coverage and novelty of binary samples; number of samples at 0, 1, 2, ... wrong pixels."""

    samples_by_wrong_pixels_to_nearest_written: list[Natural]
    samples_by_wrong_pixels_to_nearest_training: list[Natural]


class LevelGenerationResult(GenerationResult):
    """Coverage and novelty of samples of grey levels; number of samples at squared errors of about 0, 0.001, ..."""

    samples_by_squared_error_to_nearest_written: list[Natural]
    samples_by_squared_error_to_nearest_training: list[Natural]


Sampled = TypeVar("Sampled", bound=GenerationResult)


class GenerationResults(FileContent, Generic[Sampled]):
    """Results without and with clean-up."""

    prior: Sampled
    cleaned_up: Sampled


class Generation(FileContent):
    """generate.json, of binary images."""

    settings: GenerationSettings
    results: GenerationResults[BinaryGenerationResult]
    near_wrong_pixels: NotNegative
    written_to_nearest_training_wrong_pixels: NotNegative


class LevelGeneration(FileContent):
    """generate.json, of images of grey levels."""

    settings: GenerationSettings
    results: GenerationResults[LevelGenerationResult]
    near_squared_error: NotNegative
    written_to_nearest_training_squared_error: NotNegative


class FromPriorSettings(ReportSettings):
    """Settings of generate.py --from-prior."""

    memory_prior: str
    memories: Count
    temperature: float


class Coherence(FileContent):
    """How alike the images of an episode are; distances are named by their kind."""

    __pydantic_extra__: dict[str, Number]
    within_to_between_ratio: Number
    nearest_within_to_between_ratio: Number


class FromPriorResults(FileContent):
    """Episodes from the prior of memories, beside real ones, before and after they are written and read back."""

    sampled: Coherence
    read_back: Coherence
    real: Coherence


class FromPrior(FileContent):
    """from_prior.json."""

    settings: FromPriorSettings
    results: FromPriorResults


class BestCheckpoint(FileContent):
    """best.pt: the parameters of the best step."""

    step: Natural
    pair: dict[str, Tensor]


class ProcessState(FileContent):
    """The random state of one training process."""

    episodes: dict[str, Tensor]
    random: dict[str, Tensor]


class TrainingCheckpoint(BestCheckpoint):
    """checkpoint.pt: the state that the next step depends on."""

    training_seconds: NotNegative
    waited_seconds: NotNegative
    best_elbo_nats_per_image: Annotated[float, Field(lt=float("inf"), allow_inf_nan=True)]  # -inf before the first
    evaluations_since_best: Natural = 0
    optimizer: dict[int, dict[str, Tensor]]
    processes: Annotated[list[ProcessState], Field(min_length=1)]
