"""Zero-shot classifiers: one text feature for each class, built once and kept in a cache.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vpt.errors import BackboneError, ConfigError, VptError
from vpt.registry import nearest
from vpt.storage.cache import cache_folder
from vpt.storage.sealed_file import read_sealed, write_sealed
from vpt.text.names import check_distinct, check_known, check_names
from vpt.text.templates import fill, resolve_class_prompts, resolve_templates
from vpt.text.tokenizer import quote
from vpt.text.tower import TextTower

_KIND = "text classifier"
_VERSION = 1
_RULE = "normalise each text, mean over the texts of a class, normalise"
_TEXTS_PER_BATCH = 256
_LISTED = 5


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """Text features of classes, and the model's own scale and bias.

    Attributes:
        weight: (C, F) fp32, rows of length one.
        class_names: C names, in the order of the rows.
        logit_scale: the factor of the cosine.
        logit_bias: what is added, or None.
        key: hex digest of everything that shaped it; equal keys, equal classifiers.
    """

    weight: Tensor
    class_names: tuple[str, ...]
    logit_scale: float
    logit_bias: float | None
    key: str

    def subset(self, names: Sequence[str]) -> TextClassifier:
        """The classifier of some of the classes, in the order given.

        Raises:
            ConfigError: a name that it does not have, or one twice.
        """
        chosen = check_names(names)
        places = {name: index for index, name in enumerate(self.class_names)}
        for name in chosen:
            if name not in places:
                raise ConfigError(f"unknown class {quote(name)}{nearest(name, places)}")
        rows = torch.tensor([places[name] for name in chosen], device=self.weight.device)
        key = _digest({"classes": chosen, "of": self.key})
        scale, bias = self.logit_scale, self.logit_bias
        return TextClassifier(self.weight[rows], chosen, scale, bias, key)

    def logits(self, features: Tensor) -> Tensor:
        """(B, C) fp32: scale times the cosine with features (B, F), plus the bias."""
        with torch.autocast(features.device.type, enabled=False):
            weight = self.weight.to(features.device)
            logits = self.logit_scale * (F.normalize(features.float(), dim=-1) @ weight.T)
            return logits if self.logit_bias is None else logits + self.logit_bias

    def save(self, path: Path | str) -> None:
        """Write it as a sealed file; the folder exists.

        Raises:
            RunError: the disk is full, forbidden or broken.
        """
        header = {
            "kind": _KIND,
            "version": _VERSION,
            "class_names": list(self.class_names),
            "logit_scale": self.logit_scale,
            "logit_bias": self.logit_bias,
            "key": self.key,
        }
        write_sealed(Path(path), {"weight": self.weight}, header)

    @staticmethod
    def load(path: Path | str) -> TextClassifier:
        """The same bits as were saved, on the CPU.

        Raises:
            VptError: the file is missing, damaged, of another kind or of a newer version.
        """
        header, tensors = read_sealed(Path(path))
        if header.get("kind") != _KIND:
            raise ConfigError(f"{path} is no text classifier")
        if header.get("version") != _VERSION:
            raise ConfigError(
                f"{path} is a text classifier of version {header.get('version')}; this is for "
                f"version {_VERSION}, build it again"
            )
        try:
            return TextClassifier(
                weight=tensors["weight"],
                class_names=tuple(header["class_names"]),
                logit_scale=header["logit_scale"],
                logit_bias=header["logit_bias"],
                key=header["key"],
            )
        except KeyError as error:
            raise ConfigError(f"{path} is a text classifier without {error}") from error


def default_cache() -> Path:
    """Where classifiers are kept: `text_classifiers` in $VPT_CACHE, or else in ~/.cache/vpt."""
    return cache_folder("text_classifiers")


def build_classifier(
    tower: TextTower,
    class_names: Sequence[str],
    templates: str | Path | Sequence[str] = "a_photo",
    *,
    class_prompts: Mapping[str, Sequence[str]] | Path | str | None = None,
    cache: Path | None = None,
) -> TextClassifier:
    """The zero-shot classifier of some classes, on the tower's device.

    Each text's feature is normalised, averaged over the texts of its class, normalised again.

    Args:
        tower: encodes the texts, in its own dtype.
        class_names: go into the texts as they are (underscores too).
        templates: see `resolve_templates`.
        class_prompts: whole sentences for each class, in place of templates; may have more classes.
        cache: a folder, made where it is missing, that keeps what was built under its key; where
            that cannot be written, nothing is kept.

    Raises:
        ConfigError: names that are empty, the same, or the same to the tower, a name of which it
            has learned no word, a class without prompts, a text that is too long.
        BackboneError: the tower has no weights, or a text's feature is not finite.
    """
    names = check_names(class_names)
    texts, sources = _texts_of(names, templates, class_prompts)
    check_distinct(names, texts)
    if tower.sha256 is None:
        raise BackboneError(f"text tower '{tower.name}' is on the meta device and has no weights")
    key = _digest(_tower_facts(tower) | {"class_names": names} | sources)
    path = None if cache is None else Path(cache) / f"{key}.safetensors"
    kept = None if path is None else _load_kept(path, key)
    if kept is not None:
        return _to(kept, tower.device)
    weight = _encode(tower, names, texts)
    if class_prompts is None:
        check_known(tower, names)
    built = TextClassifier(weight, names, tower.logit_scale, tower.logit_bias, key)
    if path is not None:
        with contextlib.suppress(VptError, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            built.save(path)
    return built


def _texts_of(
    names: tuple[str, ...],
    templates: str | Path | Sequence[str],
    class_prompts: Mapping[str, Sequence[str]] | Path | str | None,
) -> tuple[list[list[str]], dict[str, Any]]:
    """(the texts of each class, what they were made from)."""
    if class_prompts is None:
        sentences = resolve_templates(templates)
        filled = [[fill(each, name) for each in sentences] for name in names]
        return filled, {"templates": sentences}
    prompts = resolve_class_prompts(class_prompts)
    missing = [quote(name) for name in names if name not in prompts]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise ConfigError(
            f"class_prompts have no sentence for {', '.join(missing[:_LISTED])}{more}"
        )
    chosen = [list(prompts[name]) for name in names]
    return chosen, {"class_prompts": chosen}


def _tower_facts(tower: TextTower) -> dict[str, Any]:
    """Everything about a tower that shapes a classifier, as JSON values."""
    return {
        "version": _VERSION,
        "rule": _RULE,
        "dtype": "float32",
        "tower": tower.name,
        "sha256": tower.sha256,
        "structure": tower.structure,
        "activation": tower.activation,
        "computed_in": str(tower.dtype),
        "tokenizer": tower.tokenizer.fingerprint,
        "context_length": tower.context_length,
        "logit_scale": tower.logit_scale,
        "logit_bias": tower.logit_bias,
    }


@torch.no_grad()
def _encode(tower: TextTower, names: tuple[str, ...], texts: list[list[str]]) -> Tensor:
    """(C, F) fp32, a bounded number of texts at a time."""
    rows = [row for group in _groups(texts) for row in _encode_group(tower, group)]
    weight = torch.stack(rows)
    bad = (~weight.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise BackboneError(
            f"the text feature of {quote(names[bad[0]])} is not finite in {tower.dtype}; "
            "take the tower in float32"
        )
    return weight


def _groups(texts: list[list[str]]) -> Iterator[list[list[str]]]:
    """Classes in order, with as many texts together as make a batch; at least one class."""
    group: list[list[str]] = []
    size = 0
    for own in texts:
        if group and size + len(own) > _TEXTS_PER_BATCH:
            yield group
            group, size = [], 0
        group.append(own)
        size += len(own)
    yield group


def _encode_group(tower: TextTower, group: list[list[str]]) -> list[Tensor]:
    tokens = tower.tokenize([text for own in group for text in own])
    with torch.autocast(tower.device.type, enabled=False):
        encoded = [tower.encode(part).float() for part in torch.split(tokens, _TEXTS_PER_BATCH)]
    features = F.normalize(torch.cat(encoded), dim=-1)
    means = [part.mean(dim=0) for part in torch.split(features, [len(own) for own in group])]
    return [F.normalize(mean, dim=0) for mean in means]


def _load_kept(path: Path, key: str) -> TextClassifier | None:
    """What the cache has under a key; None where it has nothing, or a file that is not whole."""
    try:
        kept = TextClassifier.load(path)
    except VptError:
        return None
    return kept if kept.key == key else None


def _to(classifier: TextClassifier, device: torch.device) -> TextClassifier:
    names, scale, bias = classifier.class_names, classifier.logit_scale, classifier.logit_bias
    return TextClassifier(classifier.weight.to(device), names, scale, bias, classifier.key)


def _digest(facts: dict[str, Any]) -> str:
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
