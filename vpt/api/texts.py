"""The texts of a head: which tower they come from, and whether a prompt file's are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from vpt.backbones import Backbone, is_clip_name
from vpt.engine.prompt_header import PromptHeader
from vpt.errors import ConfigError, PromptFileError
from vpt.heads import TextOptions, TextParts
from vpt.models import Classifier
from vpt.registry import HEADS
from vpt.structures import TextIdentity

if TYPE_CHECKING:
    from vpt.text import TextTower


def text_parts(
    options: dict[str, Any], body: Backbone, names: Sequence[str] | None, text: TextTower | None
) -> tuple[dict[str, Any], TextParts, TextIdentity]:
    """The head's options with every sentence written out, what it is built from, and its source.

    Without a learned context the tower is not kept: its classifier is all that is needed of it.

    Args:
        options: of a head whose classes are texts, checked.
        body: the backbone.
        names: the classes as the sentences call them, in label order.
        text: a text tower that is in memory; None creates the backbone's.

    Raises:
        ConfigError: there are no names, or the tower is another backbone's.
    """
    if names is None:
        raise ConfigError(f"head {options['name']} needs class_names: they are what is classified")
    from vpt.text import LearnedContext, build_classifier, default_cache

    # Drawn before a tower is made, so that start values do not depend on whether it was there.
    seed = int(torch.randint(2**62, ()))
    tower = text or _text_tower_of(body, options["name"])
    if text is not None and text.name and body.name and text.name != body.name:
        raise ConfigError(f"the text tower of '{text.name}' does not belong to '{body.name}'")
    options = options | _written_out(options, names)
    classifier = build_classifier(
        tower,
        names,
        options["templates"] or "a_photo",
        class_prompts=options["class_prompts"],
        cache=default_cache() if body.pretrained or body.weights else None,
    )
    context = options.get("context")
    random = torch.Generator().manual_seed(seed)
    assert tower.sha256 is not None, "the classifier was built from weights"
    parts = TextParts(
        weight=classifier.weight,
        logit_scale=classifier.logit_scale,
        logit_bias=classifier.logit_bias,
        context=LearnedContext(tower, names, generator=random, **context) if context else None,
    )
    identity = TextIdentity(
        sha256=tower.sha256,
        structure=tower.structure,
        tokenizer=tower.tokenizer.fingerprint,
        context_length=tower.context_length,
        names=tuple(names),
    )
    return options, parts, identity


def _written_out(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Every sentence that the classes are made of, and no others."""
    from vpt.text import resolve_class_prompts, resolve_templates

    if options["class_prompts"] is not None:
        prompts = resolve_class_prompts(options["class_prompts"])
        return {
            "templates": None,
            "class_prompts": {name: prompts[name] for name in names if name in prompts},
        }
    templates = options["templates"]
    return {"templates": resolve_templates("a_photo" if templates is None else templates)}


def check_head(head: str | Mapping[str, Any], backbone: str) -> None:
    """Refuse a head of texts on a backbone without a text tower, before any weight is loaded.

    Raises:
        ConfigError: naming both.
    """
    name = head if isinstance(head, str) else head.get("name")
    if name not in HEADS.names() or not issubclass(HEADS[name].schema, TextOptions):
        return
    if not is_clip_name(backbone):
        raise ConfigError(
            f"head {name} needs a text tower, which '{backbone}' has not; take bundled/glyph_clip "
            "or open_clip/<architecture>:<tag>" + ("" if backbone else ", or pass it as text=")
        )


def _text_tower_of(body: Backbone, head: str) -> TextTower:
    check_head(head, body.name)
    from vpt.text import create_text_tower

    return create_text_tower(body.name, pretrained=body.pretrained, weights=body.weights)


def check_text(header: PromptHeader, model: Classifier) -> None:
    """Refuse a model whose texts are not those that a prompt file was trained with.

    Raises:
        PromptFileError: naming what differs.
    """
    if header.text is None or model.text is None:
        return
    if model.text.sha256 != header.text.sha256:
        raise PromptFileError(
            f"it belongs to a text tower with weights {header.text.sha256[:12]}, not "
            f"{model.text.sha256[:12]}"
        )
    for what in ("structure", "tokenizer", "context_length"):
        if getattr(model.text, what) != getattr(header.text, what):
            raise PromptFileError(
                f"its text tower has the same weights, but another {what.replace('_', ' ')}: "
                "same weights, other numbers"
            )
