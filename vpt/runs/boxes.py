"""The evaluator of a split with boxes, as the loop wants it: by positions in the split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vpt.data import DetectionSplit, to_coco_dict
from vpt.engine.run_dir import write_text_atomic
from vpt.evaluation import CocoEval, DetectionEvaluator
from vpt.structures import Detections


class BoxEvaluator:
    """COCO's metrics of a split; the detections themselves are written at every evaluation.

    Args:
        split: what is evaluated.
        results: a file for the detections as COCO results, replaced each time; None writes none.
        coco_eval: see `DetectionEvaluator`.

    Attributes:
        coco: holds the last evaluation.
        split: as given.
    """

    headline: tuple[str, ...] = ("AP", "AP50", "AP75")

    def __init__(
        self,
        split: DetectionSplit,
        results: Path | None = None,
        *,
        coco_eval: CocoEval = "pycocotools",
    ):
        self.split = split
        self.coco = DetectionEvaluator(to_coco_dict(split), split.category_ids, coco_eval=coco_eval)
        self._image_ids = split.table.image_ids.tolist()
        self._results = results

    def reset(self) -> None:
        """See `Evaluator.reset`."""
        self.coco.reset()

    def update(self, outputs: Sequence[Detections], labels: Tensor) -> None:
        """Take B detections in the files' pixels and the positions (B,) of their images."""
        self.coco.update([self._image_ids[place] for place in labels.tolist()], outputs)

    def compute(self) -> dict[str, float]:
        """See `DetectionEvaluator.compute`."""
        if self._results is not None:
            # Without indents, which would take more time than all the rest of it.
            text = json.dumps(self._named_results(), separators=(",", ":"), allow_nan=False)
            write_text_atomic(self._results, text + "\n")
        return self.coco.compute()

    def _named_results(self) -> list[dict[str, Any]]:
        """The results with the images' ids as the annotation file has them."""
        names, records = self.split.image_names, self.coco.results()
        if names:
            for record in records:
                record["image_id"] = names.get(record["image_id"], record["image_id"])
        return records
