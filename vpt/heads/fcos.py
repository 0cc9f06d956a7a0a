"""The FCOS head: one point per cell, distances to the box's sides, and centre-ness.

Tian et al., "FCOS: A Simple and Strong Anchor-Free Object Detector", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FCOS
from torchvision.models.detection.fcos import FCOSHead

from vpt.heads.anchors import CellAnchors
from vpt.heads.detection import NoBackbone, TorchvisionHead
from vpt.heads.pyramid import check_groups


class CountingLayers(FCOSHead):  # type: ignore[misc] # torchvision has no types
    """torchvision's, which tell too by how many cells with a box the losses are divided."""

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """The losses, and 'positives'."""
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        return {
            **losses,
            "positives": torch.stack([(box >= 0).sum() for box in matched_idxs]).sum(),
        }


class FcosHead(TorchvisionHead):
    """FCOS over any strides; a cell's point is its centre.

    Args:
        num_classes: C.
        strides: pixels per cell of each map.
        channels: width of the maps, a multiple of 32.
        num_convs: 3x3 convolutions of each tower.
        center_radius: cells around a box's centre that learn it.
        score_threshold: of the root of class score times centre-ness; a new head gives about 0.07.
        nms_threshold: IoU above which the weaker box of a class is suppressed.
        detections_per_image: the best that are kept.

    Raises:
        ConfigError: the width does not split into 32 groups.
    """

    loss_names = ("classification", "box", "centerness")

    def __init__(
        self,
        num_classes: int,
        strides: Sequence[float],
        *,
        channels: int = 256,
        num_convs: int = 4,
        center_radius: float = 1.5,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        detections_per_image: int = 100,
    ):
        check_groups(channels)
        anchors = CellAnchors(strides, [(stride,) for stride in strides])
        model = FCOS(
            NoBackbone(channels),
            num_classes,
            anchor_generator=anchors,
            head=CountingLayers(channels, 1, num_classes, num_convs),
            center_sampling_radius=center_radius,
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections_per_image,
        )
        options = {
            "name": "fcos",
            "channels": channels,
            "num_convs": num_convs,
            "center_radius": center_radius,
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
        losses: dict[str, Tensor] = self._model.compute_loss(targets, outputs, anchors, lengths)
        return losses


def build(num_classes: int, strides: Sequence[float], **options: Any) -> FcosHead:
    """The head from its checked options."""
    return FcosHead(num_classes, strides, **options)
