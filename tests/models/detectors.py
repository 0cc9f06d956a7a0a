"""Tiny detectors over the contract's backbones, and pictures of rectangles for them to find."""

from __future__ import annotations

import torch

from tests.contracts.kinds import make
from vpt.api import create_model
from vpt.backbones import wrap_backbone
from vpt.heads import SimpleFeaturePyramid, build_detection_head, even_taps
from vpt.models import Detector, PromptedBackbone
from vpt.registry import DETECTION_HEADS
from vpt.structures import DetectionBatch, DetectionTargets, Letterbox

CLASSES = 3


def make_detector(
    kind="test_vit",
    prompt="vpt_deep",
    head="fcos",
    *,
    size=None,
    taps=2,
    insert=False,
    tuning="frozen",
    scales=(2.0, 1.0, 0.5),
    **options,
):
    """A detector of 3 classes, 32 channels wide, one convolution deep unless told otherwise."""
    body = wrap_backbone(make(kind) if isinstance(kind, str) else kind)
    if size is not None:
        body.resize(size)
    torch.manual_seed(5)
    shared = create_model(body, prompt, num_classes=None, tuning=tuning).prompted
    prompted = PromptedBackbone(shared.backbone, shared.prompt, insert=insert)
    given = {"channels": 32, "num_convs": 1, **options}
    at = prompted.backbone.dimensions
    neck = SimpleFeaturePyramid(
        at.embed_dim,
        at.patch_size,
        even_taps(at.depth, taps),
        channels=given["channels"],
        scales=scales,
    )
    checked = DETECTION_HEADS[head].schema(**given).model_dump()
    built = build_detection_head({"name": head, **checked}, CLASSES, neck.strides)
    return Detector(prompted, neck, built, ["disc", "square", "bar"], tuning=tuning)


def images_of(detector, count=2, seed=0):
    """(count, 3, H, W) of the detector's own size, random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *detector.preprocess.size, generator=generator)


def batch_of(images, targets):
    """A batch whose files are as large as the images; targets are (boxes, labels) as lists."""
    side = images.shape[-1]
    return DetectionBatch(
        images,
        tuple(
            DetectionTargets(
                torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(labels).long()
            )
            for boxes, labels in targets
        ),
        torch.arange(len(images)),
        tuple(Letterbox.fit((side, side), side) for _ in targets),
    )


def pictures(count, side=64, seed=0):
    """A batch of `count` pictures with two rectangles each, whose colour is their class."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = 0.1 * torch.randn(count, 3, side, side, generator=generator), []
    for image in images:
        boxes, labels = [], []
        for half in range(2):
            width, height = torch.randint(14, 26, (2,), generator=generator).tolist()
            x = half * side // 2 + int(
                torch.randint(0, side // 2 - width, (1,), generator=generator)
            )
            y = int(torch.randint(0, side - height, (1,), generator=generator))
            label = int(torch.randint(0, CLASSES, (1,), generator=generator))
            image[label, y : y + height, x : x + width] += 2.0
            boxes.append([x, y, x + width, y + height])
            labels.append(label)
        targets.append((boxes, labels))
    return batch_of(images, targets)
