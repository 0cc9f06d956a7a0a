"""A prompted backbone with a classification head: an ordinary module for anyone's training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vpt.backbones import Backbone
from vpt.errors import PromptFileError
from vpt.heads import Head
from vpt.models.prompted import PromptedBackbone
from vpt.prompts import Prompt
from vpt.structures import Batch, Features, Preprocess


class Classifier(nn.Module):
    """Logits of images; without a head, the pooled feature.

    Args:
        prompted: backbone and prompt.
        head: from `Features` to logits (B, C), or None for the feature (B, F).
        class_names: C names, if known.
        preprocess: how images are prepared; None takes the backbone's own.
        tuning: which backbone tensors train, in the words of the config; for the prompt file.
    """

    def __init__(
        self,
        prompted: PromptedBackbone,
        head: Head | None,
        class_names: Sequence[str] | None = None,
        *,
        preprocess: Preprocess | None = None,
        tuning: str = "frozen",
    ):
        super().__init__()
        self.preprocess = preprocess or prompted.backbone.preprocess
        self.prompted = prompted
        self.head = head
        self.class_names = None if class_names is None else list(class_names)
        self.tuning = tuning

    @property
    def backbone(self) -> Backbone:
        """The shared backbone."""
        return self.prompted.backbone

    @property
    def prompt(self) -> Prompt:
        """What is learned beside the head."""
        return self.prompted.prompt

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of preprocessed images (B, 3, H, W); without a head, features (B, F)."""
        if self.head is None:
            features: Features = self.prompted(images)
            assert features.pooled is not None
            return features.pooled
        logits: Tensor = self.head(self.prompted(images, need=self.head.needs))
        return logits

    def loss(
        self, batch: Batch, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{'loss': cross entropy, 'logits': (B, C)}; with class weights the weighted mean."""
        logits = self(batch.images).float()
        loss = F.cross_entropy(logits, batch.labels, class_weights, label_smoothing=label_smoothing)
        return {"loss": loss, "logits": logits.detach()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities (B, C)."""
        return self(images).float().softmax(dim=-1)  # type: ignore[no-any-return]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Everything that is trained: prompt, head, and selected backbone tensors."""
        return [parameter for _, parameter in self.trained_tensors() if parameter.requires_grad]

    def trained_tensors(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors of what training may change and a prompt file holds.

        That is everything reachable from the model minus what the frozen backbone owns, by
        identity. Names start with 'prompt.', 'head.' or, for selected backbone tensors,
        'backbone.'.
        """
        selected = self.backbone.trained
        frozen = {
            id(t)
            for name, t in self.backbone.state_dict(keep_vars=True).items()
            if name not in selected
        }
        parts: tuple[tuple[str, nn.Module | None], ...] = (
            ("prompt", self.prompt),
            ("head", self.head),
            ("backbone", self.backbone),
        )
        for part, module in parts:
            if module is not None:
                for name, tensor in module.state_dict(keep_vars=True).items():
                    if id(tensor) not in frozen:
                        yield f"{part}.{name}", tensor

    def load_trained(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy trained tensors in, strictly.

        Raises:
            PromptFileError: a tensor is missing, unknown, or of another shape.
        """
        own = dict(self.trained_tensors())
        if own.keys() != tensors.keys():
            missing, unknown = (
                sorted(own.keys() - tensors.keys()),
                sorted(tensors.keys() - own.keys()),
            )
            raise PromptFileError(
                f"tensors do not fit the model: missing {missing}, unknown {unknown}"
            )
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise PromptFileError(
                    f"tensor {name} has shape {tuple(tensors[name].shape)}, "
                    f"the model's has {tuple(tensor.shape)}"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
