"""The data room: labelled image sets in memory, and batches as pure functions of their address.

- :mod:`~gkd.data.images`: ``ImageSet``, uint8 images with labels by class name; :mod:`~gkd.data.streamed`: images
  that stay on disk.
- :mod:`~gkd.data.readers`: ``load_images`` and the data sets by name; :mod:`~gkd.data.arrays` has those of
  torchvision and scikit-learn, :mod:`~gkd.data.datasets` takes any other torch data set.
- :mod:`~gkd.data.files`: image files in a directory or a zip; :mod:`~gkd.data.layouts` knows where data sets
  keep them, :mod:`~gkd.data.listing` lists and decodes them, :mod:`~gkd.data.cache` keeps what was decoded.
- :mod:`~gkd.data.splits`: a validation split, and few images per class; :mod:`~gkd.data.memory`: exemplars of
  classes seen before, as numbers of samples.
- :mod:`~gkd.data.random`: random numbers by hashing an address instead of drawing from a generator.
- :mod:`~gkd.data.augment`: augmentation of whole batches on the device, by names that can be chained;
  :mod:`~gkd.data.resized_crop` and :mod:`~gkd.data.rand_augment` are two of them.
- :mod:`~gkd.data.normalise`: normalisation and its statistics; :mod:`~gkd.data.looks`: what student and teacher see.
- :mod:`~gkd.data.episodes`: few-shot episodes to judge on, :mod:`~gkd.data.training_episodes` those to train in,
  :mod:`~gkd.data.episode_batches` as easyfsl hands them out, :mod:`~gkd.data.learn2learn` those of learn2learn.
- :mod:`~gkd.data.rotations`: turned classes. :mod:`~gkd.data.memory`: exemplars as indices.
- :mod:`~gkd.data.batches`: an epoch's ``Batches``, shuffled, class-balanced or episodes, and ``ordered`` evaluation;
  :mod:`~gkd.data.training_episodes` draws those.

The class lists of few-shot learning are in :mod:`gkd.class_splits`. Class selection is by name and lives in
:mod:`gkd.labels`; ``ImageSet.restrict`` applies it.
"""

from gkd.class_splits import class_split
from gkd.data.augment import AUGMENTATIONS, augmentation
from gkd.data.batches import Batches, check_balanced, ordered
from gkd.data.datasets import from_dataset
from gkd.data.images import ImageSet, gather
from gkd.data.layouts import LAYOUTS, fingerprint, listing_of
from gkd.data.listing import Listing, SplitListing
from gkd.data.looks import Look
from gkd.data.normalise import STATISTICS, channel_statistics, normalise
from gkd.data.random import epoch_order, uniform
from gkd.data.readers import DATASETS, check_dataset_name, load_images
from gkd.data.splits import limit_per_class, split_validation
from gkd.data.streamed import StreamedPixels
from gkd.data.training_episodes import EpisodePlan, check_episodes

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "LAYOUTS",
    "STATISTICS",
    "Batches",
    "EpisodePlan",
    "ImageSet",
    "Listing",
    "Look",
    "SplitListing",
    "StreamedPixels",
    "augmentation",
    "channel_statistics",
    "check_balanced",
    "check_dataset_name",
    "check_episodes",
    "class_split",
    "epoch_order",
    "fingerprint",
    "from_dataset",
    "gather",
    "limit_per_class",
    "listing_of",
    "load_images",
    "normalise",
    "ordered",
    "split_validation",
    "uniform",
]
