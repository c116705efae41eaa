"""Data sets of images, and episodes of their images.

The pictures of a folder are decoded while training: `find_pictures`, `decode_pictures` and `FolderSampler`
(`folder.py`). Other data sets are loaded as a whole.

To add a data set, write a loader `(data_dir: Path) -> ImageSplits` in a file of this folder (`digits.py` is the
shortest), register it there, and import the file below. Images are uint8, grey or RGB, until they are rendered.
"""

import kpp_pyro.data.array
import kpp_pyro.data.celeba
import kpp_pyro.data.celeba32
import kpp_pyro.data.cifar10
import kpp_pyro.data.digits
import kpp_pyro.data.imagenet32
import kpp_pyro.data.mazes32
import kpp_pyro.data.mnist
import kpp_pyro.data.omniglot
import kpp_pyro.data.svhn
from kpp_pyro.data.augment import augment, warp
from kpp_pyro.data.datasets import DATASETS, load_dataset
from kpp_pyro.data.folder import FolderSampler, decode_pictures, find_pictures
from kpp_pyro.data.held_out import EpisodeSet, first_images
from kpp_pyro.data.idx import read_idx
from kpp_pyro.data.images import ImageSplits, LabelledImages
from kpp_pyro.data.picture_folders import named_pictures, read_pictures
from kpp_pyro.data.sampler import EpisodeSampler, OptionalBinarization
from kpp_pyro.data.splitting import USUAL_EPISODE_LENGTH
from kpp_pyro.likelihoods.bernoulli import STATIC_BINARIZATION_SEED, Binarization, binarize, binarize_once

__all__ = [
    "DATASETS",
    "STATIC_BINARIZATION_SEED",
    "USUAL_EPISODE_LENGTH",
    "Binarization",
    "EpisodeSampler",
    "EpisodeSet",
    "FolderSampler",
    "ImageSplits",
    "LabelledImages",
    "OptionalBinarization",
    "augment",
    "binarize",
    "binarize_once",
    "decode_pictures",
    "find_pictures",
    "first_images",
    "load_dataset",
    "named_pictures",
    "read_idx",
    "read_pictures",
    "warp",
]
