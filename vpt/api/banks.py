"""Banks of many tasks, from their prompt files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import nn

from vpt.api.prompt_files import check_prompt_file, load_prompt
from vpt.backbones import wrap_backbone
from vpt.engine.prompt_file import read_prompt_header
from vpt.engine.prompt_header import PromptHeader
from vpt.errors import ConfigError, PromptFileError
from vpt.models import PromptedModel, TaskBank, model_in
from vpt.text import TextTower, create_text_tower


class PromptBank(TaskBank):
    """A `TaskBank` that takes prompt files as well as models.

    `bank(images, task)` gives the logits of a batch in which every image may be of another task,
    and `bank.predict(images, task)` each image's probabilities over its own classes.
    """

    @classmethod
    def from_files(
        cls,
        backbone: str | nn.Module | None,
        files: Mapping[str, Path | str],
        *,
        weights: Path | str | None = None,
        text: TextTower | None = None,
        capacity: int | None = None,
        num_tokens: int | Sequence[int] | None = None,
        num_classes: int | None = None,
        num_rows: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """A bank of the tasks of prompt files, as large as they need where nothing is said.

        Args:
            backbone: one that is already in memory, which is shared; None creates the files'.
            files: by the tasks' names.
            weights: a local file with the backbone's weights, where they are not downloaded.
            text: the text tower of heads whose classes are texts; None creates it once.
            capacity: most tasks at once; None: as many as there are files.
            num_tokens: most prompt tokens of a task at a layer, or at each layer; None: what the
                files have.
            num_classes: of the largest head, which makes the logits' width; None: the files'.
            num_rows: most classes of all tasks together; None: the files', and as many for each
                further task as these have on average.
            dtype: of keys and values.

        Raises:
            PromptFileError: a file is damaged, needs a newer version, belongs to another backbone
                than the first one, tunes its backbone, or holds no classifier.
            ConfigError: no file, a prompt or head that a bank cannot hold, or sizes that are too
                small.
            BackboneError: the backbone cannot be created.
        """
        if not files:
            raise ConfigError("a bank from no file has no backbone; give at least one")
        headers = [_fitting_header(path) for path in files.values()]
        body = wrap_backbone(backbone) if isinstance(backbone, nn.Module) else None
        given = backbone if body is None else body
        for path in files.values():  # before a text tower is made for them
            check_prompt_file(path, given, weights=weights if body is None else None)
        text = text or _text_tower_of(headers, weights)
        models: dict[str, PromptedModel] = {}
        for name, path in files.items():
            given = backbone if body is None else body
            model = load_prompt(path, given, weights=weights if body is None else None, text=text)
            body = model.backbone
            models[name] = model
        assert body is not None
        return cls.from_models(
            body,
            models,
            capacity=capacity,
            num_tokens=num_tokens,
            num_classes=num_classes,
            num_rows=num_rows,
            dtype=dtype,
        )

    def add(
        self, name: str, model: PromptedModel | Path | str, *, text: TextTower | None = None
    ) -> None:
        """Copy a task in, or change nothing at all.

        Args:
            name: of the task, new to the bank.
            model: in eval, or a prompt file.
            text: a text tower that is already in memory, for a file whose classes are texts.

        Raises:
            ConfigError: it cannot be in this bank, or there is no room.
            PromptFileError: see `from_files`.
        """
        super().add(name, self._loaded(model, text))

    def replace(
        self, name: str, model: PromptedModel | Path | str, *, text: TextTower | None = None
    ) -> None:
        """Copy another task in at the place of one, or change nothing at all.

        Args:
            name: of a task in the bank.
            model: see `add`.
            text: see `add`.

        Raises:
            ConfigError: there is no such task, or see `add`.
            PromptFileError: see `from_files`.
        """
        super().replace(name, self._loaded(model, text))

    def _loaded(self, model: PromptedModel | Path | str, text: TextTower | None) -> PromptedModel:
        if not isinstance(model, Path | str):
            return model_in(model)
        _fitting_header(model)
        return load_prompt(model, self.backbone, text=text)


def _fitting_header(path: Path | str) -> PromptHeader:
    """The header of a file, refused before a backbone is created for what no bank can hold."""
    header = read_prompt_header(path)
    if header.task != "classification":
        raise PromptFileError(f"{path} holds a model for {header.task}; a bank holds classifiers")
    if header.tuning != "frozen":
        raise PromptFileError(
            f"{path} tunes the backbone ({header.tuning}), which a bank's tasks share; train it "
            "with tuning frozen"
        )
    return header


def _text_tower_of(headers: Sequence[PromptHeader], weights: Path | str | None) -> TextTower | None:
    """The tower that files with texts name, once for all; None: none has a name of one."""
    record = next((each.backbone for each in headers if each.text is not None), None)
    if record is None or not record.name:
        return None
    return create_text_tower(record.name, pretrained=record.pretrained, weights=weights)
