"""What every model over a prompted backbone is: parts, their trained tensors, their counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vpt.backbones import Backbone
from vpt.errors import PromptFileError
from vpt.models.prompted import PromptedBackbone
from vpt.prompts import Prompt
from vpt.structures import Preprocess


class PromptedModel(nn.Module):
    """A prompted backbone and what stands on it.

    Args:
        prompted: backbone and prompt.
        class_names: C names, if known.
        preprocess: how images are prepared; None takes the backbone's own.
        tuning: which backbone tensors train, in the words of the config; for the prompt file.

    Attributes:
        part_names: the attributes that hold trained tensors, in the order of the prompt file; a
            tensor is named '<part>.<its name there>'.
    """

    part_names: ClassVar[tuple[str, ...]] = ("prompt", "head", "backbone")

    def __init__(
        self,
        prompted: PromptedBackbone,
        class_names: Sequence[str] | None = None,
        *,
        preprocess: Preprocess | None = None,
        tuning: str = "frozen",
    ):
        super().__init__()
        self.preprocess = preprocess or prompted.backbone.preprocess
        self.prompted = prompted
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

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """What training lowers: 'loss', and where it has several its parts 'loss_<part>'."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def outputs(self, images: Tensor) -> Sequence[Tensor]:
        """Everything that the loss compares with the truth, of images (B, 3, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} has no outputs")

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Everything that is trained: all parts, of the backbone the selected tensors."""
        return [parameter for _, parameter in self.trained_tensors() if parameter.requires_grad]

    def trained_tensors(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors of what training may change and a prompt file holds.

        That is everything reachable from the model minus what the frozen backbone owns, by
        identity. Names start with the part, e.g. 'prompt.' or 'head.'; those of selected backbone
        tensors with 'backbone.'.
        """
        selected = self.backbone.trained
        frozen = {
            id(t)
            for name, t in self.backbone.state_dict(keep_vars=True).items()
            if name not in selected
        }
        for part in self.part_names:
            module = getattr(self, part)
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

    def trained_counts(self) -> dict[str, int]:
        """Numbers of parameters that training may change, by part."""
        counts = dict.fromkeys(self.part_names, 0)
        for name, tensor in self.trained_tensors():
            if tensor.requires_grad:
                counts[name.partition(".")[0]] += tensor.numel()
        return counts

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of parameters by part; 'backbone' counts all of it, trained or not."""
        modules = {part: getattr(self, part) for part in self.part_names}
        return {
            part: sum(p.numel() for p in module.parameters()) if module is not None else 0
            for part, module in modules.items()
        }
