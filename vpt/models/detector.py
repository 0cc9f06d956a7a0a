"""A prompted backbone with a pyramid and a detection head: an ordinary module for any loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from vpt.errors import ConfigError
from vpt.heads import DetectionHead, SimpleFeaturePyramid
from vpt.models.base import PromptedModel
from vpt.models.inputs import check_images
from vpt.models.prompted import PromptedBackbone
from vpt.structures import DetectionBatch, Detections, Features, Letterbox, Preprocess


class Detector(PromptedModel):
    """Boxes, scores and labels of what is in images.

    Where nothing of the backbone or the prompt is trained, the blocks run without gradients.

    Args:
        prompted: backbone and prompt.
        neck: from the patch tokens of its taps to maps.
        head: from maps to losses and detections.
        class_names: C names, if known.
        category_ids: what the annotation files call the classes, in label order, if known.
        taps: the blocks whose patch tokens are read; None takes the neck's, and others are refused.
        preprocess: how images are prepared; None takes the backbone's own.
        tuning: which backbone tensors train, in the words of the config; for the prompt file.

    Raises:
        ConfigError: the parts do not fit each other, or the image size is no multiple of the
            coarsest stride.
    """

    part_names: ClassVar[tuple[str, ...]] = ("prompt", "neck", "head", "backbone")

    def __init__(
        self,
        prompted: PromptedBackbone,
        neck: SimpleFeaturePyramid,
        head: DetectionHead,
        class_names: Sequence[str] | None = None,
        *,
        category_ids: Sequence[int] | None = None,
        taps: Sequence[int] | None = None,
        preprocess: Preprocess | None = None,
        tuning: str = "frozen",
    ):
        super().__init__(prompted, class_names, preprocess=preprocess, tuning=tuning)
        self.neck = neck
        self.head = head
        self.category_ids = None if category_ids is None else tuple(category_ids)
        self.taps = neck.taps if taps is None else tuple(taps)
        self._check_parts()
        self._check_size(self.preprocess.size)

    def forward(self, images: Tensor) -> list[Detections]:
        """B detections of preprocessed images (B, 3, S, S), in their pixels."""
        return self.head.detect(self.maps(images))

    def outputs(self, images: Tensor) -> Sequence[Tensor]:
        """See `PromptedModel.outputs`: the head's, of all cells of all maps."""
        return tuple(self.head.outputs(self.maps(images)).values())

    def loss(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """What training lowers: 'loss', the sum of the parts 'loss_<part>'.

        The parts are 'loss_classification', 'loss_box' and, with FCOS, 'loss_centerness'. They are
        the same in training and evaluation mode, but for the prompt's dropout. 'positives' is what
        they were divided by, or by 1 where it is 0; without it they are means over the images.
        """
        parts, positives = self.head.counted_loss(self.maps(batch.images), batch.targets)
        total = torch.stack(list(parts.values())).sum()
        losses = {"loss": total, **{f"loss_{name}": value for name, value in parts.items()}}
        return losses if positives is None else {**losses, "positives": positives}

    @torch.no_grad()
    def predict(self, images: Tensor, letterboxes: Sequence[Letterbox]) -> list[Detections]:
        """B detections in the pixels of the original files; what lies in the padding is dropped.

        Args:
            images: (B, 3, S, S), letterboxed and preprocessed.
            letterboxes: B, how.
        """
        check_images(images, self.backbone)
        if len(letterboxes) != len(images):
            raise ConfigError(
                f"{len(letterboxes)} letterboxes for {len(images)} images; give one for each"
            )
        pairs = zip(self(images), letterboxes, strict=True)
        return [to_original(detections, letterbox) for detections, letterbox in pairs]

    def maps(self, images: Tensor) -> list[Tensor]:
        """The pyramid's maps (B, channels, h, w) of images (B, 3, S, S), finest first."""
        check_images(images, self.backbone)
        height, width = images.shape[-2:]
        self._check_size((height, width))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trunk_is_trained):
            features: Features = self.prompted(images, need=(), taps=self.taps)
        maps: list[Tensor] = self.neck(features)
        return maps

    @property
    def _trunk_is_trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self.prompted.parameters())

    def _check_parts(self) -> None:
        neck, head = self.neck, self.head
        if self.taps != neck.taps:
            raise ConfigError(f"taps {self.taps} differ from the pyramid's {neck.taps}")
        if max(self.taps) >= self.backbone.depth:
            raise ConfigError(
                f"taps {self.taps} exceed the {self.backbone.depth} blocks of "
                f"'{self.backbone.name}'"
            )
        if (head.channels, head.strides) != (neck.channels, neck.strides):
            raise ConfigError(
                f"the head takes {head.channels} channels at strides {head.strides}, the pyramid "
                f"gives {neck.channels} at {neck.strides}"
            )
        for what, given in (("class_names", self.class_names), ("category_ids", self.category_ids)):
            if given is not None and len(given) != head.num_classes:
                raise ConfigError(f"{len(given)} {what} for a head of {head.num_classes} classes")

    def _check_size(self, size: tuple[int, int]) -> None:
        stride = self.neck.strides[-1]
        if size[0] % stride or size[1] % stride:
            below = tuple(max(1, int(side // stride)) * stride for side in size)
            nearest = f"{below[0]:g}x{below[1]:g}"
            raise ConfigError(
                f"image_size {size[0]}x{size[1]} is no multiple of the coarsest stride "
                f"{stride:g}; use e.g. {nearest}, or fewer scales"
            )


def to_original(detections: Detections, letterbox: Letterbox) -> Detections:
    """Detections in the file's pixels, from those in the letterboxed image's.

    Boxes are clipped to the file; those that lie in the padding have no area left and are dropped.
    """
    boxes = letterbox.to_original(detections.boxes)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return Detections(boxes, detections.scores, detections.labels)[inside]
