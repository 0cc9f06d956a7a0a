"""From features to what a task wants."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.heads.base import ClassRows, Head, TextParts, build_head
    from vpt.heads.detection import DetectionHead, build_detection_head
    from vpt.heads.fcos import FcosHead
    from vpt.heads.linear import LinearHead
    from vpt.heads.mlp import MlpHead
    from vpt.heads.options import PyramidOptions, TextOptions
    from vpt.heads.pyramid import SimpleFeaturePyramid, build_pyramid, even_taps
    from vpt.heads.retinanet import RetinaNetHead
    from vpt.heads.zero_shot import LinearFromTextHead, TextHead, ZeroShotHead
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "ClassRows",
    "DetectionHead",
    "FcosHead",
    "Head",
    "LinearFromTextHead",
    "LinearHead",
    "MlpHead",
    "PyramidOptions",
    "RetinaNetHead",
    "SimpleFeaturePyramid",
    "TextHead",
    "TextOptions",
    "TextParts",
    "ZeroShotHead",
    "build_detection_head",
    "build_head",
    "build_pyramid",
    "even_taps",
]
