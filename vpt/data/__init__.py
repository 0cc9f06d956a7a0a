"""Data sets: descriptors, readers, transforms, sampling and loading."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.data.boxes.detection import (
        LEFT_OUT,
        DetectionSample,
        DetectionSplit,
        DetectionSplits,
        Finding,
        boxes_hash,
        report_lines,
        to_coco_dict,
    )
    from vpt.data.depth import depth_warning, depth_warning_of_files
    from vpt.data.descriptor import Cut, Descriptor, TextNames
    from vpt.data.images import read_image
    from vpt.data.layouts import load_descriptor
    from vpt.data.loading.decoded import (
        DecodedDataset,
        DecodedImages,
        build_decoded,
        decoded_path,
        decoded_sizes,
        find_decoded,
        make_room,
    )
    from vpt.data.loading.detection_loader import (
        DetectionDataset,
        collate_detection,
        make_detection_loader,
    )
    from vpt.data.loading.loader import (
        BatchLoader,
        ImageDataset,
        collate,
        each_of,
        load_sample,
        make_loader,
        targets_of,
    )
    from vpt.data.loading.scans import BadImage, ScanMemory, drop_bad, scan_images
    from vpt.data.loading.workers import Workers, usable_cores, worker_count
    from vpt.data.readers.parts import check_classes
    from vpt.data.reading import read_splits
    from vpt.data.reading_boxes import read_detection
    from vpt.data.recognising import layout_lines
    from vpt.data.sampling import (
        EpochBatches,
        coop_few_shot,
        few_shot,
        restrict_classes,
        share_of,
        with_val_in_train,
    )
    from vpt.data.scenes import SceneSettings, write_scenes
    from vpt.data.selections import apply_selection
    from vpt.data.splits import Sample, Split, Splits
    from vpt.data.transforms.boxes import (
        BoxTransform,
        LetterboxedImage,
        box_evaluation_transform,
        box_training_transform,
    )
    from vpt.data.transforms.images import (
        Normalise,
        Transform,
        create_transform,
        evaluation_transform,
        training_transform,
    )
    from vpt.data.transforms.mixing import NO_MIXING, Mixing, mix
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "LEFT_OUT",
    "NO_MIXING",
    "BadImage",
    "BatchLoader",
    "BoxTransform",
    "Cut",
    "DecodedDataset",
    "DecodedImages",
    "Descriptor",
    "DetectionDataset",
    "DetectionSample",
    "DetectionSplit",
    "DetectionSplits",
    "EpochBatches",
    "Finding",
    "ImageDataset",
    "LetterboxedImage",
    "Mixing",
    "Normalise",
    "Sample",
    "ScanMemory",
    "SceneSettings",
    "Split",
    "Splits",
    "TextNames",
    "Transform",
    "Workers",
    "apply_selection",
    "box_evaluation_transform",
    "box_training_transform",
    "boxes_hash",
    "build_decoded",
    "check_classes",
    "collate",
    "collate_detection",
    "coop_few_shot",
    "create_transform",
    "decoded_path",
    "decoded_sizes",
    "depth_warning",
    "depth_warning_of_files",
    "drop_bad",
    "each_of",
    "evaluation_transform",
    "few_shot",
    "find_decoded",
    "layout_lines",
    "load_descriptor",
    "load_sample",
    "make_detection_loader",
    "make_loader",
    "make_room",
    "mix",
    "read_detection",
    "read_image",
    "read_splits",
    "report_lines",
    "restrict_classes",
    "scan_images",
    "share_of",
    "targets_of",
    "to_coco_dict",
    "training_transform",
    "usable_cores",
    "with_val_in_train",
    "worker_count",
    "write_scenes",
]
