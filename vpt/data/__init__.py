"""Data sets: descriptors, readers, transforms, sampling and loading."""

from vpt.data.descriptor import Cut, Descriptor, load_descriptor
from vpt.data.formats import read_splits
from vpt.data.images import read_image
from vpt.data.loader import (
    BadImage,
    BatchLoader,
    ImageDataset,
    drop_bad,
    load_sample,
    make_loader,
    scan_images,
)
from vpt.data.sampling import EpochBatches, few_shot, holdout
from vpt.data.splits import Sample, Split, Splits
from vpt.data.transforms import (
    Transform,
    create_transform,
    evaluation_transform,
    training_transform,
)

__all__ = [
    "BadImage",
    "BatchLoader",
    "Cut",
    "Descriptor",
    "EpochBatches",
    "ImageDataset",
    "Sample",
    "Split",
    "Splits",
    "Transform",
    "create_transform",
    "drop_bad",
    "evaluation_transform",
    "few_shot",
    "holdout",
    "load_descriptor",
    "load_sample",
    "make_loader",
    "read_image",
    "read_splits",
    "scan_images",
    "training_transform",
]
