"""What every model over a prompted backbone is: parts, their trained tensors, their counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vpt.backbones import Backbone
from vpt.backbones.wrappers import unwrapped
from vpt.errors import ConfigError, PromptFileError
from vpt.models.prompted import PromptedBackbone
from vpt.prompts import Prompt
from vpt.structures import Preprocess


def model_in(module: nn.Module) -> PromptedModel:
    """The model itself, of what torch put around it: compile, DataParallel, DDP.

    Raises:
        ConfigError: it is no model of this library.
    """
    model = unwrapped(module) if isinstance(module, nn.Module) else module
    if isinstance(model, PromptedModel):
        return model
    raise ConfigError(
        f"a {type(model).__name__} is no model of vpt; pass what create_model, create_detector or "
        "load_prompt gave"
    )


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

    @property
    def pooling(self) -> str | None:
        """What the feature that its head reads is made of, see `Backbone.pooling`.

        None where it reads none.
        """
        return None

    def bake(self) -> Self:
        """Compute the keys and values of prompts once, for all images to come; gives itself.

        They do not depend on the images where prompts go in as context; prompts that flow, and
        what else a method adds, stay as they are. Without gradients the outputs are the same, bit
        for bit; where the prompt gets a gradient, it is computed as before. State dicts and prompt
        files are those of the model as it was, and copies are baked too.

        Bake under the autocast that the model then runs in: another one is refused. `.to` moves
        the baked values; casting rounds them, so bake again after it for the same bits. `train()`,
        `load_trained` and `load_state_dict` unbake; a tensor that was changed otherwise is
        refused, but in a compiled graph, which does not see it.

        Raises:
            ConfigError: the model is in training.
        """
        self.prompted.bake()
        return self

    @contextmanager
    def as_baked(self) -> Iterator[Self]:
        """In eval and baked while inside, and then as it was."""
        training, baked = self.training, self.prompted.baked
        self.eval()
        if baked is None:
            self.bake()
        try:
            yield self
        finally:
            if baked is None:
                self.unbake()
            self.train(training)

    def unbake(self) -> Self:
        """Compute the prompts' keys and values in each forward pass again; gives itself."""
        self.prompted.unbake()
        return self

    @property
    def baked_layers(self) -> tuple[int, ...]:
        """The layers whose keys and values of prompts are kept."""
        baked = self.prompted.baked
        return () if baked is None else tuple(baked.contexts)

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
        """Copy trained tensors in, strictly; a baked model is unbaked.

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
        self.unbake()
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
