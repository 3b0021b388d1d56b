"""Labelled image sets, in memory or streamed, and batches as pure functions of their address.

- :mod:`~gkd.data.images`: ``ImageSet``, uint8 images with labels by class name.
- :mod:`~gkd.data.streamed_pixels`: images that stay on disk; :mod:`~gkd.data.image_files`: files in a directory or zip;
  :mod:`~gkd.data.decoding`: one of them as pixels.
- :mod:`~gkd.data.read`: data sets by name, class folders and zips, any torch data set, and a cache of decoded images.
- :mod:`~gkd.data.fewer_images`: a validation split, and few images per class.
- :mod:`~gkd.data.addressed_random`: random numbers by hashing an address instead of drawing from a generator.
- :mod:`~gkd.data.augment`: augmentation of whole batches on the device, normalisation, and the views of both sides.
- :mod:`~gkd.data.batches`: an epoch's ``Batches``, shuffled, class-balanced or episodes, and ``ordered`` evaluation.
  :mod:`~gkd.data.mixed_batches`: batches of samples with and without labels.
- :mod:`~gkd.data.episodes`: few-shot episodes to evaluate on; :mod:`~gkd.data.training_episodes`: to train on.
- :mod:`~gkd.data.rotations`: rotated images as new classes.

Class lists and orders are in :mod:`gkd.core.class_orders`; ``ImageSet.restrict`` selects classes by name.
"""

from gkd.core.class_orders import class_split
from gkd.data.addressed_random import epoch_order, uniform
from gkd.data.augment.chain import AUGMENTATIONS, augmentation
from gkd.data.augment.normalise import STATISTICS, channel_statistics, normalise
from gkd.data.augment.views import Look
from gkd.data.batches import Batches, check_balanced, ordered
from gkd.data.fewer_images import limit_per_class, split_validation
from gkd.data.images import ImageSet, gather
from gkd.data.mixed_batches import AnyBatches, MixedBatches, unlabelled_rows
from gkd.data.read.content import Content, content_at, fingerprint
from gkd.data.read.layouts import LAYOUTS, listing_of
from gkd.data.read.listing import Listing, SplitListing
from gkd.data.read.load import DATASETS, check_dataset_name, load_images, why_unread
from gkd.data.read.torch_dataset import from_dataset
from gkd.data.read.unlabelled import load_unlabelled
from gkd.data.streamed_pixels import StreamedPixels
from gkd.data.training_episodes import EpisodePlan, check_episodes

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "LAYOUTS",
    "STATISTICS",
    "AnyBatches",
    "Batches",
    "Content",
    "EpisodePlan",
    "ImageSet",
    "Listing",
    "Look",
    "MixedBatches",
    "SplitListing",
    "StreamedPixels",
    "augmentation",
    "channel_statistics",
    "check_balanced",
    "check_dataset_name",
    "check_episodes",
    "class_split",
    "content_at",
    "epoch_order",
    "fingerprint",
    "from_dataset",
    "gather",
    "limit_per_class",
    "listing_of",
    "load_images",
    "load_unlabelled",
    "normalise",
    "ordered",
    "split_validation",
    "uniform",
    "unlabelled_rows",
    "why_unread",
]
