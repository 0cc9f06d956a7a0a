"""Many tasks on one backbone: each image of a batch sees its own task's prompts, and gets its head.

In real arithmetic a prompt that goes in as context is keys and values that do not depend on the
image. So a task is a row of tables: per layer keys and values, and a row per class. What a forward
pass needs of them is gathered for each image; the backbone is computed once for the whole batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vpt.backbones import Backbone
from vpt.errors import ConfigError
from vpt.heads import ClassRows
from vpt.models.base import PromptedModel, model_in
from vpt.models.classifier import Classifier
from vpt.models.inputs import check_images
from vpt.models.prompted import PromptedBackbone
from vpt.models.turns import Turns
from vpt.prompts import NoPrompt, Prompt, PromptList
from vpt.structures import Context, Preprocess

_PLACES = 2**32
"""A handle is a task's place plus this times how often the place was given to another task."""

_FITTING = "a bank holds vpt_deep with layers all or last: k, kv, and none"


@dataclass(frozen=True)
class BankTask:
    """What a bank knows of a task beside its tensors.

    Attributes:
        slot: its place in the bank, 0..capacity - 1.
        num_classes: C of its own.
        class_names: C names, if known.
        multi_label: whether an image may be of several classes, or of none.
        preprocess: how its images are prepared.
        generation: how often its place was given to something else before.
    """

    slot: int
    num_classes: int
    class_names: tuple[str, ...] | None
    multi_label: bool
    preprocess: Preprocess
    generation: int = 0

    @property
    def handle(self) -> int:
        """By which a batch names it: the number is no other task's, before or later."""
        return self.generation * _PLACES + self.slot


class TaskBank(nn.Module):
    """Logits of a batch in which every image may be of another task.

    For inference: a task is copied in, and later changes of its model are not seen. All tables are
    allocated at once, and tasks come and go in place, so that a compiled bank stays compiled. Two
    things alone make another graph: `grow`, and the first task with fewer tokens than the bank has
    at some layer, as from then on these layers mask the padding. State dicts hold the backbone
    alone: a bank is made again from its tasks.

    Several threads may share a bank. A forward pass, compiled or not, sees the tasks as they were
    when it began: `add`, `replace`, `remove` and `grow` wait for the passes that have begun, and
    passes that begin later wait for them.

    Class rows lie one after another for all tasks, and a table says which rows are whose. Padded to
    the largest head they would take capacity * C numbers a feature, though most heads are small;
    in one stretch per task, removing would leave holes that others do not fit in.

    Args:
        backbone: frozen; shared by all tasks.
        capacity: most tasks at once.
        num_tokens: T, prompt tokens that a task may have at a layer; or one number for each layer.
        num_classes: C, the largest head; the width of the logits.
        num_rows: most classes of all tasks together; None: capacity * num_classes.
        dtype: of keys and values. Class rows are float32: a scale of 100 makes whole logits of
            rounding.

    Attributes:
        tasks: by name.
        num_tokens: T of each layer.

    Raises:
        ConfigError: tensors of the backbone are trained, its blocks take no context, or a number
            is too small.
    """

    counts: Tensor
    rows_of: Tensor
    scales: Tensor
    normalizes: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        capacity: int,
        num_tokens: int | Sequence[int],
        num_classes: int,
        num_rows: int | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if backbone.trained:
            raise ConfigError(
                "a bank needs a frozen backbone, and some of this one's tensors train"
            )
        self.prompted = PromptedBackbone(backbone, NoPrompt())
        self.dtype = dtype
        self.tasks: dict[str, BankTask] = {}
        self.masked = (False,) * backbone.depth
        self.free_rows: list[int] = []
        self._turns = Turns()
        rows = capacity * num_classes if num_rows is None else num_rows
        self._check_sizes(capacity=capacity, num_classes=num_classes, num_rows=rows)
        self._generations = [0] * capacity
        self._allocate(capacity, self._per_layer(num_tokens), num_classes, rows)
        self.free_rows = list(range(rows, 0, -1))
        self.eval()

    @classmethod
    def from_models(
        cls,
        backbone: Backbone,
        models: Mapping[str, PromptedModel],
        *,
        capacity: int | None = None,
        num_tokens: int | Sequence[int] | None = None,
        num_classes: int | None = None,
        num_rows: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """A bank of these tasks, as large as they need where nothing is said.

        Args:
            backbone: shared by all tasks.
            models: by the tasks' names; in eval.
            capacity: most tasks at once; None: as many as there are.
            num_tokens: see the class; None: at each layer the most that one of them has.
            num_classes: see the class; None: that of the largest head.
            num_rows: see the class; None: theirs, and as many for each further task as they have
                on average.
            dtype: of keys and values.

        Raises:
            ConfigError: no model, or one that cannot be in a bank.
        """
        if not models:
            raise ConfigError(
                "a bank without tasks has no sizes; give capacity and the other sizes"
            )
        entries = {name: _examine(backbone, name, model) for name, model in models.items()}
        capacity = len(entries) if capacity is None else capacity
        classes = [entry.num_classes for entry in entries.values()]
        if num_tokens is None:
            each = [entry.counts(backbone.depth) for entry in entries.values()]
            num_tokens = [max(counts) for counts in zip(*each, strict=True)]
        bank = cls(
            backbone,
            capacity=capacity,
            num_tokens=num_tokens,
            num_classes=max(classes) if num_classes is None else num_classes,
            num_rows=-(-sum(classes) * capacity // len(classes)) if num_rows is None else num_rows,
            dtype=dtype,
        )
        for name, entry in entries.items():
            bank._insert(name, entry)
        return bank

    # ------------------------------------------------------------------------------------ sizes

    @property
    def backbone(self) -> Backbone:
        """What all tasks share."""
        return self.prompted.backbone

    @property
    def capacity(self) -> int:
        """Most tasks at once."""
        return len(self.rows_of)

    @property
    def num_classes(self) -> int:
        """C, the width of the logits."""
        return self.rows_of.shape[1]

    @property
    def num_rows(self) -> int:
        """Most classes of all tasks together."""
        return len(self.weight) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all that the bank holds beside the backbone, for as many tasks as it can."""
        return sum(buffer.nbytes for buffer in self._buffers.values() if buffer is not None)

    def grow(
        self,
        *,
        capacity: int | None = None,
        num_tokens: int | Sequence[int] | None = None,
        num_classes: int | None = None,
        num_rows: int | None = None,
    ) -> None:
        """Make room: everything is allocated anew, larger, and a compiled bank compiles again.

        Args:
            capacity: most tasks at once; None leaves it, as with the others.
            num_tokens: T of all layers, or of each.
            num_classes: C.
            num_rows: most classes of all tasks together.

        Raises:
            ConfigError: a number is smaller than what the bank has.
        """
        with self._changing():
            self._grow(
                {"capacity": capacity, "num_classes": num_classes, "num_rows": num_rows},
                num_tokens,
            )

    def _grow(
        self, given: Mapping[str, int | None], num_tokens: int | Sequence[int] | None
    ) -> None:
        now = {
            "capacity": self.capacity,
            "num_classes": self.num_classes,
            "num_rows": self.num_rows,
        }
        wanted = {key: now[key] if size is None else size for key, size in given.items()}
        tokens = self.num_tokens if num_tokens is None else self._per_layer(num_tokens)
        for key, size in wanted.items():
            if size < now[key]:
                raise ConfigError(f"{key} {size}: the bank has {now[key]}, and only grows")
        if any(new < old for new, old in zip(tokens, self.num_tokens, strict=True)):
            raise ConfigError(
                f"num_tokens {list(tokens)}: the bank has {list(self.num_tokens)}, and only grows"
            )
        self.free_rows += range(self.num_rows + 1, wanted["num_rows"] + 1)
        self._generations += [0] * (wanted["capacity"] - self.capacity)
        before = dict(self._buffers)
        self._allocate(wanted["capacity"], tokens, wanted["num_classes"], wanted["num_rows"])
        for name, old in before.items():
            assert old is not None
            self.get_buffer(name)[tuple(slice(size) for size in old.shape)] = old
        self._look_for_padding()

    # ------------------------------------------------------------------------------------ tasks

    def add(self, name: str, model: PromptedModel) -> None:
        """Copy a task in, or change nothing at all.

        Args:
            name: of the task, new to the bank.
            model: in eval; its prompts go in as context alone, on the bank's backbone, and its
                head is one row per class.

        Raises:
            ConfigError: it cannot be in this bank, or there is no room.
        """
        self._refuse_known(name)
        entry = _examine(self.backbone, name, model)
        with self._changing():
            self._refuse_known(name)  # another thread may have added it meanwhile
            self._insert(name, entry)

    def replace(self, name: str, model: PromptedModel) -> None:
        """Copy another model in at a task's place, or change nothing at all.

        Handles of the task stay good if the new model has the same classes and prepares images
        alike: what they were taken for is still what they give.

        Raises:
            ConfigError: there is no such task, or see `add`.
        """
        self._task(name)
        entry = _examine(self.backbone, name, model)
        with self._changing():
            before = self._task(name)
            self._check_room(name, entry, before.num_classes)
            entry = entry.to(self.bias.device)  # first, as a device may have no room for it
            self._free(before)
            self._write(name, entry, before.slot)
            after = self.tasks[name]
            if replace(before, generation=after.generation) != after:
                self._generations[after.slot] += 1
                self.tasks[name] = replace(after, generation=after.generation + 1)

    def remove(self, name: str) -> None:
        """Free a task's place; its handles are refused from now on.

        Raises:
            ConfigError: there is no such task.
        """
        with self._changing():
            task = self._task(name)
            del self.tasks[name]
            self._generations[task.slot] += 1
            self._free(task)
            self._look_for_padding()

    def slots(self, task: str | Sequence[str] | Tensor, batch_size: int) -> Tensor:
        """(B,) int64 on the CPU: the handles of the tasks of a batch, which `forward` takes.

        A handle stands for one task for ever. Once that was removed, or replaced by one of other
        classes, the handle is refused, whatever has the task's place since.

        Args:
            task: one name for all images, B names, or handles, which are checked.
            batch_size: B.

        Raises:
            ConfigError: an unknown task, a handle of a task that the bank has no longer, or
                another number than B.
        """
        with self._turns.using:
            handles: Tensor = self._handles(task, batch_size)
            return handles

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _handles(self, task: str | Sequence[str] | Tensor, batch_size: int) -> Tensor:
        if not isinstance(task, Tensor):
            names = [task] * batch_size if isinstance(task, str) else task
            task = torch.tensor([self._task(name).handle for name in names], dtype=torch.int64)
        if task.ndim != 1 or task.dtype != torch.int64:
            raise ConfigError(
                f"handles of shape {tuple(task.shape)} and type {task.dtype}; give (B,) int64, as "
                "bank.slots does"
            )
        if len(task) != batch_size:
            raise ConfigError(f"{len(task)} tasks for {batch_size} images; give one for each")
        handles = task.cpu()
        unknown = set(handles.tolist()) - {each.handle for each in self.tasks.values()}
        if unknown:
            raise ConfigError(self._about_unknown(min(unknown)))
        return handles

    def _about_unknown(self, handle: int) -> str:
        generation, place = divmod(handle, _PLACES)
        if place < self.capacity and 0 <= generation < self._generations[place]:
            return (
                f"handle {handle} is of a task that was removed, or replaced by one of other "
                "classes, after bank.slots gave it; call bank.slots again"
            )
        return f"no task of the bank is at {handle}; take bank.slots"

    # ---------------------------------------------------------------------------------- forward

    # Of a compiled bank `_run` is the graph. Handles are checked and changes kept away outside of
    # it, where Python can raise and wait.
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator, no-untyped-call]
    def forward(self, images: Tensor, task: str | Sequence[str] | Tensor) -> Tensor:
        """Logits (B, C) float32, -inf beyond an image's own classes.

        Args:
            images: (B, 3, H, W), each prepared as its task wants it.
            task: one name for all images, B names, or (B,) int64 handles, as `slots` gives them.
                Handles are best on the CPU: to check others, this thread waits for the device.

        Raises:
            ConfigError: see `slots`.
        """
        check_images(images, self.backbone)
        with self._turns.using:
            return self._run(images, self._places(self._handles(task, len(images))))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _places(self, handles: Tensor) -> Tensor:
        return (handles % _PLACES).to(self.rows_of.device)

    @torch.no_grad()
    def _run(self, images: Tensor, places: Tensor) -> Tensor:
        prompted = any(self.num_tokens)
        features = self.prompted(
            images, context_at=(lambda layer: self._context(layer, places)) if prompted else None
        )
        assert features.pooled is not None
        return self._logits(features.pooled, places)

    def predict(self, images: Tensor, task: str | Sequence[str] | Tensor) -> list[Tensor]:
        """For each image the probabilities of its own task's classes, (C of the task,).

        They are of one class per image (softmax), or of each class on its own where the task is
        multi-label.

        Args:
            images: (B, 3, H, W), each prepared as its task wants it.
            task: see `forward`.
        """
        check_images(images, self.backbone)
        with self._turns.using:
            handles = self._handles(task, len(images))
            logits: Tensor = self(images, handles)
            at = {each.handle: each for each in self.tasks.values()}
            owners = [at[handle] for handle in handles.tolist()]
        own = [row[: owner.num_classes] for row, owner in zip(logits, owners, strict=True)]
        return [
            row.sigmoid() if owner.multi_label else row.softmax(dim=0)
            for row, owner in zip(own, owners, strict=True)
        ]

    def _context(self, layer: int, slots: Tensor) -> Context | None:
        """Each image's keys and values; of a task with fewer tokens the first are its own."""
        keys, values = self.get_buffer(f"keys_{layer}"), self.get_buffer(f"values_{layer}")
        if keys.shape[2] == 0:
            return None
        seen = None
        if self.masked[layer]:
            places = torch.arange(keys.shape[2], device=keys.device)
            seen = places < self.counts[slots, layer, None]
        return Context(keys[slots], values[slots], seen)

    def _logits(self, pooled: Tensor, slots: Tensor) -> Tensor:
        """(B, C) by the rows of each image's task; row 0 is that of no class, -inf.

        Either all rows are multiplied, or those of each image are gathered first: what touches
        fewer. So neither many tasks nor a large batch make it slow.
        """
        rows = self.rows_of[slots]
        with torch.autocast(pooled.device.type, enabled=False):
            x = pooled.float()
            x = torch.where(self.normalizes[slots, None], F.normalize(x, dim=-1), x)
            if len(self.weight) <= rows.numel():
                products = (x @ self.weight.float().T).gather(1, rows)
            else:
                products = (self.weight[rows].float() @ x[:, :, None]).squeeze(2)
            return self.scales[slots, None] * products + self.bias[rows]

    # ----------------------------------------------------------------------------------- tables

    def _allocate(
        self, capacity: int, num_tokens: Sequence[int], num_classes: int, num_rows: int
    ) -> None:
        self.num_tokens = tuple(num_tokens)
        device = next(self.backbone.parameters()).device
        shape = self.backbone.attention_shape
        if shape is None and any(num_tokens):
            raise ConfigError(
                f"the blocks of '{self.backbone.name}' take no context, or differ from each "
                "other: a bank of it holds heads without prompts, num_tokens 0"
            )
        heads, head_dim = (0, 0) if shape is None else shape[:2]

        def table(name: str, *sizes: int, dtype: torch.dtype) -> None:
            empty = torch.zeros(sizes, dtype=dtype, device=device)
            self.register_buffer(name, empty, persistent=False)

        for layer, count in enumerate(num_tokens):
            for name in ("keys", "values"):
                table(f"{name}_{layer}", capacity, heads, count, head_dim, dtype=self.dtype)
        table("counts", capacity, self.backbone.depth, dtype=torch.int64)
        table("rows_of", capacity, num_classes, dtype=torch.int64)
        table("scales", capacity, dtype=torch.float32)
        table("normalizes", capacity, dtype=torch.bool)
        table("weight", 1 + num_rows, self.backbone.feature_dim, dtype=torch.float32)
        table("bias", 1 + num_rows, dtype=torch.float32)
        self.bias[0] = float("-inf")

    def _insert(self, name: str, entry: _Entry) -> None:
        taken = {task.slot for task in self.tasks.values()}
        slot = next((place for place in range(self.capacity) if place not in taken), None)
        if slot is None:
            raise ConfigError(
                f"no room for '{name}': the bank has its {self.capacity} tasks; "
                "remove one, or grow(capacity=..)"
            )
        self._check_room(name, entry, 0)
        self._write(name, entry.to(self.bias.device), slot)

    def _check_room(self, name: str, entry: _Entry, freed: int) -> None:
        counts = entry.counts(self.backbone.depth)
        for layer, (count, room) in enumerate(zip(counts, self.num_tokens, strict=True)):
            if count > room:
                raise ConfigError(
                    f"no room for '{name}': {count} prompt tokens at layer {layer}, where the bank "
                    f"has {room}; grow(num_tokens=..)"
                )
        if entry.num_classes > self.num_classes:
            raise ConfigError(
                f"no room for '{name}': {entry.num_classes} classes, where the bank has "
                f"{self.num_classes}; grow(num_classes=..)"
            )
        free = len(self.free_rows) + freed
        if entry.num_classes > free:
            raise ConfigError(
                f"no room for '{name}': {entry.num_classes} classes, and {free} of the bank's "
                f"{self.num_rows} rows are free; remove a task, or grow(num_rows=..)"
            )

    @torch.no_grad()
    def _write(self, name: str, entry: _Entry, slot: int) -> None:
        """What nothing can go wrong in any more."""
        for layer, context in entry.contexts.items():
            count = context.keys.shape[2]
            for kind, given in (("keys", context.keys), ("values", context.values)):
                self.get_buffer(f"{kind}_{layer}")[slot, :, :count] = given[0]
        self.counts[slot] = torch.tensor(entry.counts(self.backbone.depth))
        numbers = [self.free_rows.pop() for _ in range(entry.num_classes)]
        rows = torch.tensor(numbers, device=self.bias.device)
        self.rows_of[slot] = 0
        self.rows_of[slot, : len(rows)] = rows
        self.weight[rows] = entry.rows.weight.to(self.weight)
        self.bias[rows] = entry.rows.bias.to(self.bias)
        self.scales[slot] = entry.rows.scale.to(self.scales)
        self.normalizes[slot] = entry.rows.normalizes
        self.tasks[name] = BankTask(
            slot,
            entry.num_classes,
            entry.class_names,
            entry.multi_label,
            entry.preprocess,
            self._generations[slot],
        )
        self._look_for_padding()

    def _free(self, task: BankTask) -> None:
        """Give back the rows of a task; its place has no classes from now on."""
        self.free_rows += [row for row in self.rows_of[task.slot].tolist() if row]
        for table in (self.counts, self.rows_of):
            table[task.slot] = 0

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """No forward pass runs inside, on whichever stream of a GPU it was begun."""
        with self._turns.changing():
            self._wait_for_device()
            yield
            self._wait_for_device()

    def _wait_for_device(self) -> None:
        if self.bias.is_cuda:
            torch.cuda.synchronize(self.bias.device)

    def _look_for_padding(self) -> None:
        """A mask rules out some kernels: there is one only where a task has fewer tokens."""
        slots = [task.slot for task in self.tasks.values()]
        fewest = self.counts[slots].amin(dim=0).tolist() if slots else self.num_tokens
        self.masked = tuple(map(int.__lt__, fewest, self.num_tokens))

    def _refuse_known(self, name: str) -> None:
        if name in self.tasks:
            raise ConfigError(f"the bank has a task '{name}'; use replace, or another name")

    def _task(self, name: str) -> BankTask:
        if name not in self.tasks:
            raise ConfigError(f"the bank has no task '{name}'; it has {sorted(self.tasks)}")
        return self.tasks[name]

    def _per_layer(self, num_tokens: int | Sequence[int]) -> tuple[int, ...]:
        depth = self.backbone.depth
        each = (num_tokens,) * depth if isinstance(num_tokens, int) else tuple(num_tokens)
        if len(each) != depth or min(each) < 0:
            raise ConfigError(f"num_tokens {num_tokens}: give one number, or {depth}, none below 0")
        return each

    @staticmethod
    def _check_sizes(**sizes: int) -> None:
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} {size} of a bank: use 1 or more")


@dataclass(frozen=True)
class _Entry:
    """A task as it goes into the tables."""

    contexts: dict[int, Context]
    rows: ClassRows
    class_names: tuple[str, ...] | None
    multi_label: bool
    preprocess: Preprocess

    @property
    def num_classes(self) -> int:
        return len(self.rows.weight)

    def to(self, device: torch.device) -> _Entry:
        """The same with its tensors on a device."""
        contexts = {
            layer: Context(context.keys.to(device), context.values.to(device))
            for layer, context in self.contexts.items()
        }
        rows = replace(
            self.rows,
            **{name: getattr(self.rows, name).to(device) for name in ("weight", "bias", "scale")},
        )
        return replace(self, contexts=contexts, rows=rows)

    def counts(self, depth: int) -> list[int]:
        """Prompt tokens at each layer."""
        return [
            self.contexts[layer].keys.shape[2] if layer in self.contexts else 0
            for layer in range(depth)
        ]


@torch.no_grad()
def _examine(backbone: Backbone, name: str, model: PromptedModel) -> _Entry:
    """A task's tensors, computed without autocast.

    Raises:
        ConfigError: a bank on this backbone cannot hold it.
    """
    model = model_in(model)
    if not isinstance(model, Classifier):
        raise ConfigError(f"task '{name}' is a {type(model).__name__}; a bank holds classifiers")
    if backbone.stored_dtype is not None:
        raise ConfigError(
            f"task '{name}' cannot be added to a backbone stored in {backbone.stored_dtype}; "
            "add tasks first, or give the bank the backbone as loaded"
        )
    if model.training:
        raise ConfigError(f"the model of task '{name}' is training; call eval() first")
    _refuse_backbone(backbone, name, model)
    with torch.autocast(next(backbone.parameters()).device.type, enabled=False):
        contexts = _contexts_of(backbone, name, model.prompt)
        rows = None if model.head is None else model.head.class_rows()
    if rows is None:
        kind = "no head" if model.head is None else f"head {model.head.options['name']}"
        raise ConfigError(
            f"task '{name}' has {kind}; a bank holds heads of one row per class: linear, "
            "zero_shot, linear_from_text"
        )
    names = None if model.class_names is None else tuple(model.class_names)
    return _Entry(contexts, rows, names, model.multi_label, model.preprocess)


def _refuse_backbone(backbone: Backbone, name: str, model: PromptedModel) -> None:
    own = model.backbone
    if own.trained or model.tuning != "frozen":
        raise ConfigError(
            f"task '{name}' tunes the backbone ({model.tuning}), which a bank's tasks share; "
            "train it with tuning frozen"
        )
    if own is backbone:
        return
    if own.sha256 is None or own.sha256 != backbone.sha256:
        raise ConfigError(
            f"task '{name}' is of '{own.name}' with weights {str(own.sha256)[:12]}, the bank of "
            f"'{backbone.name}' with {str(backbone.sha256)[:12]}"
        )
    for what, one, other in (
        ("image size", own.preprocess.size, backbone.preprocess.size),
        ("activation", own.activation, backbone.activation),
        ("pooling", own.pooling, backbone.pooling),
    ):
        if one != other:
            raise ConfigError(f"task '{name}' has {what} {one}, the bank's backbone {other}")


def _contexts_of(backbone: Backbone, name: str, prompt: Prompt) -> dict[int, Context]:
    """The keys and values of a task, if there is nothing else to its prompt.

    Without autocast a sequence keeps its type through all blocks.
    """
    for member in _members(prompt):
        adds = _adds_else(member)
        if adds is not None:
            raise ConfigError(f"prompt {_method(member)} of task '{name}' {adds}; {_FITTING}")
    first = next(backbone.parameters())
    dtype = backbone.embed(first.new_zeros(1, 3, *backbone.preprocess.size)).values.dtype
    here = copy.deepcopy(prompt).to(first.device)
    contexts = PromptedBackbone(backbone, here).contexts([dtype] * backbone.depth)
    flowing = [layer for layer in prompt.layers if layer not in contexts]
    if flowing:
        member = next(each for each in _members(prompt) if each.layers)
        raise ConfigError(
            f"prompt {_method(member)} of task '{name}' inserts tokens at layers {flowing}, as the "
            f"next layer is not prompted or the block takes no context; {_FITTING}"
        )
    return contexts


def _members(prompt: Prompt) -> Iterator[Prompt]:
    if not isinstance(prompt, PromptList):
        yield prompt
        return
    for member in prompt.prompts:
        assert isinstance(member, Prompt)
        yield from _members(member)


def _method(prompt: Prompt) -> str:
    options = prompt.options
    return options["name"] if isinstance(options, dict) else type(prompt).__name__


def _adds_else(prompt: Prompt) -> str | None:
    """What a method does beside keys and values."""
    if type(prompt).on_images is not Prompt.on_images:
        return "changes the images"
    for layer in prompt.inside_layers:
        inside = prompt.inside(layer, 1)
        if inside is not None and inside.deltas:
            return f"changes projections of block {layer}"
        if inside is not None and inside.adapt is not None:
            return f"changes the MLP of block {layer}"
        if inside is not None and inside.temperature is not None:
            return f"changes the temperature of block {layer}"
    return None
