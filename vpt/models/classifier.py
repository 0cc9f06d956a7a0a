"""A prompted backbone with a classification head: an ordinary module for anyone's training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vpt.errors import ConfigError
from vpt.heads import Head, TextHead
from vpt.models.base import PromptedModel
from vpt.models.consistency import NO_CONSISTENCY, Consistency, feature_distance, logit_divergence
from vpt.models.prompted import PromptedBackbone
from vpt.models.soft_targets import soft_cross_entropy
from vpt.prompts import NoPrompt
from vpt.structures import Batch, Begun, Features, Preprocess, TextIdentity


class Classifier(PromptedModel):
    """Logits of images; without a head, the pooled feature.

    Args:
        prompted: backbone and prompt.
        head: from `Features` to logits (B, C), or None for the feature (B, F).
        class_names: C names, if known.
        preprocess: how images are prepared; None takes the backbone's own.
        tuning: which backbone tensors train, in the words of the config; for the prompt file.
        text: where the texts of its head come from; for the prompt file.
        multi_label: whether an image may be of several classes, or of none: each class is a
            question of its own.
    """

    def __init__(
        self,
        prompted: PromptedBackbone,
        head: Head | None,
        class_names: Sequence[str] | None = None,
        *,
        preprocess: Preprocess | None = None,
        tuning: str = "frozen",
        text: TextIdentity | None = None,
        multi_label: bool = False,
    ):
        super().__init__(prompted, class_names, preprocess=preprocess, tuning=tuning)
        self.head = head
        self.text = text
        self.multi_label = multi_label

    def forward(self, images: Tensor | Begun) -> Tensor:
        """Logits (B, C) of preprocessed images (B, 3, H, W); without a head, features (B, F)."""
        if self.head is None:
            features: Features = self.prompted(images)
            assert features.pooled is not None
            return features.pooled
        logits: Tensor = self.head(self.prompted(images, need=self.head.needs))
        return logits

    @property
    def pooling(self) -> str | None:
        """See `PromptedModel.pooling`."""
        return self.backbone.pooling if "pooled" in self._needs else None

    @property
    def begins_with_pooled(self) -> bool:
        """Whether `begin` gives the pooled feature, and not tokens."""
        return self.prompted.leaves_feature and set(self._needs) == {"pooled"}

    def begin(self, images: Tensor) -> Begun:
        """What training has no part in, of images (B, 3, H, W); see `PromptedBackbone.begin`."""
        return self.prompted.begin(images, need=self._needs)

    @property
    def _needs(self) -> tuple[str, ...]:
        return ("pooled",) if self.head is None else self.head.needs

    def outputs(self, images: Tensor) -> Sequence[Tensor]:
        """See `PromptedModel.outputs`: the logits, or without a head the feature."""
        return (self(images),)

    def loss(
        self,
        batch: Batch,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        consistency: Consistency = NO_CONSISTENCY,
    ) -> dict[str, Tensor]:
        """What training lowers: 'loss', the sum of the parts 'loss_<part>'; and 'logits' (B, C).

        'loss_class' is the cross entropy, with class weights the weighted mean; the others are
        those of `Consistency` that have a weight, which is counted in. Of a multi-label model it
        is the binary cross entropy, mean over images and classes, where a class weight multiplies
        the part of the images that are of the class, and label smoothing s makes targets of s / 2
        and 1 - s / 2.

        Args:
            batch: images and labels, on the model's device.
            label_smoothing: in [0, 1).
            class_weights: (C,) float32, or None for equal ones.
            consistency: the parts beside the cross entropy.
        """
        assert self.head is not None
        features: Features = self.prompted(batch.images, need=self.head.needs)
        logits: Tensor = self.head(features).float()
        parts = {
            "loss_class": self._loss_class(logits, batch.labels, label_smoothing, class_weights)
        }
        if consistency:
            parts |= self._consistency(batch.images, features, logits, consistency)
        total = torch.stack(list(parts.values())).sum() if consistency else parts["loss_class"]
        return {"loss": total, **parts, "logits": logits.detach()}

    def _loss_class(
        self, logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None
    ) -> Tensor:
        if self.multi_label:
            targets = labels * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
        if labels.is_floating_point():
            return soft_cross_entropy(logits, labels, weights, label_smoothing=smoothing)
        return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)

    def _consistency(
        self, images: Tensor | Begun, features: Features, logits: Tensor, weights: Consistency
    ) -> dict[str, Tensor]:
        """The weighted distances from the frozen model, which sees the same images."""
        self.check_consistency(weights)
        head = self.head
        assert isinstance(head, TextHead)
        assert features.pooled is not None
        parts = {}
        if weights.text:
            distance = feature_distance(head.text_features(), head.frozen_text)
            parts["loss_text"] = weights.text * distance
        if weights.image or weights.logits:
            with torch.no_grad():
                pooled = PromptedBackbone(self.backbone, NoPrompt())(images).pooled
                teacher = head.teacher_logits(pooled)
            if weights.image:
                parts["loss_image"] = weights.image * feature_distance(features.pooled, pooled)
            if weights.logits:
                parts["loss_logits"] = weights.logits * logit_divergence(logits, teacher)
        return parts

    def check_consistency(self, weights: Consistency) -> None:
        """Refuse weights that this model has nothing to be consistent with.

        Raises:
            ConfigError: naming what is missing.
        """
        if not weights:
            return
        if not isinstance(self.head, TextHead):
            raise ConfigError(
                "loss.consistency keeps a model near its zero-shot one, which this head has not; "
                "use head zero_shot or linear_from_text"
            )
        if self.tuning != "frozen":
            raise ConfigError(
                "loss.consistency needs a frozen backbone to be consistent with; tuning is "
                f"{self.tuning}"
            )
        if weights.text and getattr(self.head, "context", None) is None:
            raise ConfigError("loss.consistency.text needs a learned context: set head.context")

    @torch.no_grad()
    def predict(
        self,
        images: Tensor | Begun,
        *,
        probabilities: Literal["softmax", "sigmoid"] | None = None,
    ) -> Tensor:
        """Class probabilities (B, C).

        Args:
            images: (B, 3, H, W), preprocessed.
            probabilities: 'softmax', of one of the classes; 'sigmoid', of each class on its own,
                for models that were trained so (multi-label, SigLIP). None: softmax, of a
                multi-label model sigmoid.

        Raises:
            ConfigError: the model was not trained for them.
        """
        self.check_probabilities(probabilities)
        logits: Tensor = self(images).float()
        each = self.multi_label if probabilities is None else probabilities == "sigmoid"
        return logits.sigmoid() if each else logits.softmax(dim=-1)

    def check_probabilities(self, probabilities: str | None) -> None:
        """Refuse probabilities that mean nothing for this model.

        Raises:
            ConfigError: 'softmax' for a multi-label model; 'sigmoid' for another one whose head
                has no texts or no logit bias.
        """
        if self.multi_label:
            if probabilities == "softmax":
                raise ConfigError(
                    "softmax probabilities are of one class per image, and this model is "
                    "multi-label; use sigmoid"
                )
            return
        knows_each = isinstance(self.head, TextHead) and self.head.logit_bias is not None
        if probabilities == "sigmoid" and not knows_each:
            raise ConfigError(
                "sigmoid probabilities need a model with a logit bias, such as SigLIP, and a "
                "head of texts; use softmax"
            )
