"""The RetinaNet head: anchor boxes of several shapes per cell, and the focal loss.

Lin et al., "Focal Loss for Dense Object Detection", 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.retinanet import RetinaNetHead as Layers

from vpt.errors import ConfigError
from vpt.heads.anchors import CellAnchors
from vpt.heads.detection import NoBackbone, TorchvisionHead
from vpt.heads.options import MAX_CONVS
from vpt.heads.pyramid import GROUPS, check_groups

ASPECT_RATIOS = (0.5, 1.0, 2.0)


class RetinaNetHead(TorchvisionHead):
    """RetinaNet over any strides, with group norm: nine anchors around every cell's centre.

    Args:
        num_classes: C.
        strides: pixels per cell of each map.
        channels: width of the maps, a multiple of 32.
        num_convs: 3x3 convolutions of each tower, at most 4.
        anchor_scale: side of a map's smallest square anchor in cells; the others are 2^(1/3) and
            2^(2/3) times that.
        score_threshold: of the class score.
        nms_threshold: IoU above which the weaker box of a class is suppressed.
        detections_per_image: the best that are kept.

    Raises:
        ConfigError: the width does not split into 32 groups, or there are too many convolutions.
    """

    def __init__(
        self,
        num_classes: int,
        strides: Sequence[float],
        *,
        channels: int = 256,
        num_convs: int = 4,
        anchor_scale: float = 4.0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections_per_image: int = 100,
    ):
        check_groups(channels)
        if not 1 <= num_convs <= MAX_CONVS:
            raise ConfigError(f"num_convs {num_convs}: retinanet has 1..{MAX_CONVS}")
        octaves = tuple(anchor_scale * 2 ** (step / 3) for step in range(3))
        sizes = [tuple(stride * octave for octave in octaves) for stride in strides]
        anchors = CellAnchors(strides, sizes, ASPECT_RATIOS)
        per_cell = len(octaves) * len(ASPECT_RATIOS)
        layers = Layers(channels, per_cell, num_classes, partial(nn.GroupNorm, GROUPS))
        for tower in (layers.classification_head, layers.regression_head):
            tower.conv = tower.conv[:num_convs]
        model = RetinaNet(
            NoBackbone(channels),
            num_classes,
            anchor_generator=anchors,
            head=layers,
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections_per_image,
        )
        options = {
            "name": "retinanet",
            "channels": channels,
            "num_convs": num_convs,
            "anchor_scale": anchor_scale,
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
            "detections_per_image": detections_per_image,
        }
        super().__init__(model, anchors, options, num_classes=num_classes, channels=channels)

    def _matched_loss(
        self,
        outputs: dict[str, Tensor],
        targets: list[dict[str, Tensor]],
        anchors: list[Tensor],
        lengths: list[int],
    ) -> dict[str, Tensor]:
        del lengths
        losses: dict[str, Tensor] = self._model.compute_loss(targets, outputs, anchors)
        return losses


def build(num_classes: int, strides: Sequence[float], **options: Any) -> RetinaNetHead:
    """The head from its checked options."""
    return RetinaNetHead(num_classes, strides, **options)
