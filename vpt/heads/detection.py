"""What every detection head is to its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet

from vpt.errors import DataError
from vpt.heads.anchors import CellAnchors
from vpt.registry import DETECTION_HEADS
from vpt.structures import Detections, DetectionTargets


class DetectionHead(nn.Module, ABC):
    """From the maps of a pyramid to losses or to detections; what it gives depends on no mode.

    Labels are 0..C-1 everywhere outside; a head that counts otherwise shifts them itself.

    Attributes:
        options: what `build_detection_head` makes the same head from, for the prompt file.
        num_classes: C.
        channels: width of the maps that it takes.
        strides: pixels per cell of each map.
        loss_names: the parts of its loss.
        per_class: see `vpt.heads.Head`.
    """

    options: dict[str, Any]
    num_classes: int
    channels: int
    strides: tuple[float, ...]
    loss_names: tuple[str, ...] = ("classification", "box")
    per_class: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def outputs(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the layers make of the maps, by name, over all anchors of all maps, in fp32.

        Args:
            levels: a map (B, channels, h, w) per stride, finest first.
        """

    @abstractmethod
    def loss(
        self, levels: Sequence[Tensor], targets: Sequence[DetectionTargets]
    ) -> dict[str, Tensor]:
        """The parts of the loss by their names, as scalars in fp32.

        Args:
            levels: a map (B, channels, h, w) per stride, finest first.
            targets: B; images without boxes are background everywhere.

        Raises:
            DataError: a label is no class, or a box has no area.
        """

    def counted_loss(
        self, levels: Sequence[Tensor], targets: Sequence[DetectionTargets]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """`loss`, and the number of all images' positives that its parts were divided by.

        A loss that was divided by at least 1. None where a loss is the mean over its images.
        """
        return self.loss(levels, targets), None

    @abstractmethod
    def detect(self, levels: Sequence[Tensor]) -> list[Detections]:
        """B detections after suppression, in the pixels of the images behind the maps.

        Args:
            levels: a map (B, channels, h, w) per stride, finest first.
        """


class TorchvisionHead(DetectionHead):
    """A detection head around torchvision's: its layers, matching, losses and postprocessing.

    Args:
        model: torchvision's detector without a backbone; only its head holds parameters.
        anchors: of every cell.
        options: for the prompt file.
        num_classes: C.
        channels: width of the maps.
    """

    def __init__(
        self,
        model: FCOS | RetinaNet,
        anchors: CellAnchors,
        options: dict[str, Any],
        *,
        num_classes: int,
        channels: int,
    ):
        super().__init__()
        self.layers = model.head
        # A list keeps the detector, which holds the same layers, out of the module's tensors.
        self._detector = [model]
        self._anchors = anchors
        self.options, self.num_classes, self.channels = options, num_classes, channels
        self.strides = anchors.strides
        logits, boxes = "layers.classification_head.cls_logits", anchors.num_anchors_per_location()
        self.per_class = {f"{logits}.weight": boxes[0], f"{logits}.bias": boxes[0]}

    @property
    def _model(self) -> Any:
        return self._detector[0]

    def outputs(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """See `DetectionHead.outputs`."""
        assert len(levels) == len(self.strides), (len(levels), self.strides)
        return {name: output.float() for name, output in self.layers(list(levels)).items()}

    @abstractmethod
    def _matched_loss(
        self,
        outputs: dict[str, Tensor],
        targets: list[dict[str, Tensor]],
        anchors: list[Tensor],
        lengths: list[int],
    ) -> dict[str, Tensor]:
        """The losses, as torchvision names them; and 'positives', see `DetectionHead.counted_loss`.

        Args:
            outputs: of the layers.
            targets: B, as torchvision takes them.
            anchors: B times all anchors, of all maps.
            lengths: how many of them each map has.
        """

    def loss(
        self, levels: Sequence[Tensor], targets: Sequence[DetectionTargets]
    ) -> dict[str, Tensor]:
        """See `DetectionHead.loss`."""
        return self.counted_loss(levels, targets)[0]

    def counted_loss(
        self, levels: Sequence[Tensor], targets: Sequence[DetectionTargets]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """See `DetectionHead.counted_loss`."""
        for place, each in enumerate(targets):
            check_targets(each, self.num_classes, place)
        outputs = self.outputs(levels)
        given = [{"boxes": each.boxes.float(), "labels": each.labels} for each in targets]
        per_level = self._anchors.per_level(levels)
        anchors, lengths = [torch.cat(per_level)] * len(given), [len(each) for each in per_level]
        with torch.autocast(levels[0].device.type, enabled=False):
            losses = self._matched_loss(outputs, given, anchors, lengths)
        parts = {ours: losses[theirs] for theirs, ours in _LOSS_NAMES.items() if theirs in losses}
        return parts, losses.get("positives")

    @torch.no_grad()
    def detect(self, levels: Sequence[Tensor]) -> list[Detections]:
        """See `DetectionHead.detect`."""
        outputs = self.outputs(levels)
        anchors = self._anchors.per_level(levels)
        lengths = [len(each) for each in anchors]
        by_level = {
            name: list(torch.split(output, lengths, dim=1)) for name, output in outputs.items()
        }
        count, size = len(levels[0]), self._image_size(levels)
        with torch.autocast(levels[0].device.type, enabled=False):
            found = self._model.postprocess_detections(by_level, [anchors] * count, [size] * count)
        return [Detections(each["boxes"], each["scores"], each["labels"]) for each in found]

    def _image_size(self, levels: Sequence[Tensor]) -> tuple[int, int]:
        height, width = levels[0].shape[-2:]
        return round(height * self.strides[0]), round(width * self.strides[0])


_LOSS_NAMES = {
    "classification": "classification",
    "bbox_regression": "box",
    "bbox_ctrness": "centerness",
}
"""torchvision's names of the losses, and ours."""


class NoBackbone(nn.Module):
    """Stands where torchvision's detectors hold a backbone; it is never run.

    Args:
        channels: width of the maps.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.out_channels = channels


def check_targets(targets: DetectionTargets, num_classes: int, place: int) -> None:
    """Refuse what a loss would take silently for something else.

    Raises:
        DataError: a label is no class, or a box has no area, naming the image's place.
    """
    labels, boxes = targets.labels, targets.boxes
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise DataError(
            f"image {place} of the batch has label {int(wrong[0])}; "
            f"classes are 0..{num_classes - 1}"
        )
    flat = boxes[~(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]  # also where a side is NaN
    if len(flat):
        raise DataError(
            f"image {place} of the batch has the box {flat[0].tolist()} (xyxy) without an area; "
            "remove it from the annotations"
        )


def build_detection_head(
    options: Mapping[str, Any], num_classes: int, strides: Sequence[float]
) -> DetectionHead:
    """A detection head from checked options ({name, ...}).

    Args:
        options: every option filled in.
        num_classes: C.
        strides: pixels per cell of each map that it will get.
    """
    given = {key: value for key, value in options.items() if key != "name"}
    head: DetectionHead = DETECTION_HEADS[options["name"]].build(num_classes, strides, **given)
    return head
