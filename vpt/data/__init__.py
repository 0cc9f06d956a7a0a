"""Data sets: descriptors, readers, transforms, sampling and loading."""

from vpt.data.descriptor import Cut, Descriptor, TextNames, load_descriptor
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
from vpt.data.parts import check_classes
from vpt.data.sampling import EpochBatches, coop_few_shot, few_shot, holdout, restrict_classes
from vpt.data.selections import apply_selection
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
    "TextNames",
    "Transform",
    "apply_selection",
    "check_classes",
    "coop_few_shot",
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
    "restrict_classes",
    "scan_images",
    "training_transform",
]
