import copy
from dataclasses import FrozenInstanceError

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import vpt.text.classifier
from tests.text.models import EMBED_DIM, KINDS, tiny_clip
from vpt.errors import BackboneError, ConfigError
from vpt.storage.sealed_file import SealedFileError, read_sealed, write_sealed
from vpt.text import (
    LearnedContext,
    TextClassifier,
    TextTower,
    build_classifier,
    create_text_tower,
    default_cache,
)

NAMES = ["tench", "great white shark", "X-ray", "kite (bird of prey)", "Boeing 747", "ice {} cream"]


def tower_of(kind="clip", seed=0, name=""):
    return TextTower(*tiny_clip(kind, seed), name)


@pytest.fixture(scope="module")
def tower():
    return tower_of()


@pytest.fixture
def idle_tower(tower):
    """The same tower, which fails when a text is encoded."""
    idle = copy.deepcopy(tower)

    def fail(tokens):
        raise AssertionError("a text was encoded")

    idle.encode = fail
    return idle


def refused(call, match, error=ConfigError):
    with pytest.raises(error, match=match) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_build_classifier__any_tower__equals_open_clip(kind):
    model, tokenizer = tiny_clip(kind)
    classifier = build_classifier(TextTower(model, tokenizer), NAMES, "openai_imagenet")
    own = open_clip.build_zero_shot_classifier(
        model, tokenizer, NAMES, open_clip.OPENAI_IMAGENET_TEMPLATES, num_classes_per_batch=2
    )
    torch.testing.assert_close(classifier.weight, own.T, atol=1e-6, rtol=0)
    assert classifier.weight.dtype == torch.float32
    assert not classifier.weight.requires_grad
    assert classifier.class_names == tuple(NAMES)
    assert classifier.logit_scale == model.logit_scale.exp().item()


@pytest.mark.parametrize("batch", [1, 7, 9])
def test_build_classifier__other_batches__same_result(tower, monkeypatch, batch):
    whole = build_classifier(tower, NAMES, "simple")
    monkeypatch.setattr(vpt.text.classifier, "_TEXTS_PER_BATCH", batch)
    split = build_classifier(tower, NAMES, "simple")
    torch.testing.assert_close(split.weight, whole.weight, atol=1e-6, rtol=0)


def test_build_classifier__class_prompts__mean_of_each_classs_own_sentences(tower):
    prompts = {"b": ["one b.", "another one."], "a": ["an a."], "c": ["not asked for"]}
    classifier = build_classifier(tower, ["a", "b"], class_prompts=prompts)
    features = F.normalize(tower.encode(tower.tokenize(["an a.", *prompts["b"]])), dim=-1)
    expected = torch.stack([features[0], F.normalize(features[1:].mean(dim=0), dim=0)])
    torch.testing.assert_close(classifier.weight, expected, atol=1e-6, rtol=0)


def test_logits__features__scaled_cosine_plus_bias():
    classifier = build_classifier(tower_of("siglip"), NAMES)
    features = torch.randn(3, EMBED_DIM) * 5
    expected = classifier.logit_scale * F.normalize(features, dim=-1) @ classifier.weight.T - 10.0
    torch.testing.assert_close(classifier.logits(features), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(classifier.logits(features), classifier.logits(features.double()))


def test_subset__names__their_rows_in_the_order_given(tower):
    classifier = build_classifier(tower, NAMES)
    part = classifier.subset([NAMES[4], NAMES[1]])
    assert torch.equal(part.weight, classifier.weight[[4, 1]])
    assert part.class_names == (NAMES[4], NAMES[1])
    assert len({classifier.key, part.key, classifier.subset(NAMES[:2]).key}) == 3
    refused(lambda: classifier.subset(["tensh"]), "unknown class 'tensh', did you mean 'tench'")
    refused(lambda: classifier.subset(["tench", "tench"]), "same text")
    refused(lambda: classifier.subset([]), "list of names")
    with pytest.raises(FrozenInstanceError):
        classifier.logit_scale = 1.0


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "list of names"),
        ("cat", "list of names"),
        (["cat", ""], "class 1 has no name"),
        (["cat", " \t"], "class 1 has no name"),
        (["cat", None], "class 1 has no name"),
        (["cat", "dog", "cat"], "classes 0 'cat' and 2 'cat' have the same text"),
        (["ice  cream", " ice cream"], "same text"),
        (["cat", "very " * 40 + "big cat"], r"'a photo of a very .*' takes 49 tokens.* takes 24"),
    ],
)
def test_build_classifier__bad_names__one_line(tower, names, match):
    refused(lambda: build_classifier(tower, names), match)


def test_build_classifier__bad_prompts__one_line(tower):
    def build(**prompts):
        return lambda: build_classifier(tower, list("abcdefgh"), class_prompts=prompts)

    refused(build(a=["an a"], h=["an h"]), "'b', 'c', 'd', 'e', 'f' and 1 more")
    refused(build(**{name: ["the same"] for name in "abcdefgh"}), "classes 0 'a' and 1 'b'")
    refused(lambda: build_classifier(tower, ["a"], ["no place"]), "no place")


def test_build_classifier__without_finite_features__refused():
    model, tokenizer = tiny_clip("clip")
    model.ln_final.weight.data.fill_(float("inf"))
    refused(
        lambda: build_classifier(TextTower(model, tokenizer), NAMES), "not finite", BackboneError
    )
    meta = TextTower(model.to("meta"), tokenizer)
    refused(lambda: build_classifier(meta, NAMES), "meta device", BackboneError)


def test_save__and_load__same_bits(tower, tmp_path):
    path = tmp_path / "classifier.safetensors"
    classifier = build_classifier(tower_of("siglip"), NAMES)
    classifier.save(path)
    loaded = TextClassifier.load(path)
    assert torch.equal(loaded.weight, classifier.weight)
    for field in ("class_names", "logit_scale", "logit_bias", "key"):
        assert getattr(loaded, field) == getattr(classifier, field)
    build_classifier(tower, NAMES).save(str(path))
    assert TextClassifier.load(path).logit_bias is None


def test_load__other_files__one_line(tower, tmp_path):
    path = tmp_path / "classifier.safetensors"
    refused(lambda: TextClassifier.load(path), "does not exist", SealedFileError)
    write_sealed(path, {"weight": torch.zeros(1)}, {"format": "prompt"})
    refused(lambda: TextClassifier.load(path), "no text classifier")
    build_classifier(tower, NAMES).save(path)
    header, tensors = read_sealed(path)
    write_sealed(path, tensors, header | {"version": 2})
    refused(lambda: TextClassifier.load(path), "version 2")
    write_sealed(path, {}, header)
    refused(lambda: TextClassifier.load(path), "without 'weight'")


def test_cache__second_build__same_bits_and_nothing_encoded(tower, idle_tower, tmp_path):
    cache = tmp_path / "made" / "here"
    first = build_classifier(tower, NAMES, "simple", cache=cache)
    assert [path.name for path in cache.iterdir()] == [f"{first.key}.safetensors"]
    again = build_classifier(idle_tower, NAMES, "simple", cache=cache)
    assert torch.equal(again.weight, first.weight)
    assert torch.equal(again.weight, build_classifier(tower, NAMES, "simple").weight)
    assert (again.class_names, again.logit_scale, again.key) == (
        first.class_names,
        first.logit_scale,
        first.key,
    )
    with pytest.raises(AssertionError, match="encoded"):
        build_classifier(idle_tower, NAMES, "a_photo", cache=cache)


def test_cache__file_cut_or_changed_anywhere__built_again(tower, tmp_path):
    first = build_classifier(tower, NAMES, cache=tmp_path)
    path = tmp_path / f"{first.key}.safetensors"
    good = path.read_bytes()
    cuts = [good[:size] for size in (0, 1, 8, 100, len(good) // 2, len(good) - 1)]
    flips = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(0, len(good), 97)]
    for damaged in [*cuts, *flips, good + b"\0"]:
        path.write_bytes(damaged)
        again = build_classifier(tower, NAMES, cache=tmp_path)
        assert torch.equal(again.weight, first.weight)
        assert path.read_bytes() == good


def test_cache__another_classifier_under_the_name__built_again(tower, tmp_path):
    first = build_classifier(tower, NAMES, cache=tmp_path)
    path = tmp_path / f"{first.key}.safetensors"
    good = path.read_bytes()
    build_classifier(tower, NAMES[::-1]).save(path)
    again = build_classifier(tower, NAMES, cache=tmp_path)
    assert again.class_names == tuple(NAMES)
    assert path.read_bytes() == good


def test_cache__key__differs_with_everything_that_shapes_the_classifier():
    prompts = {name: [f"a photo of a {name}."] for name in NAMES}
    scaled, tokenizer = tiny_clip("clip")
    scaled.logit_scale.data.add_(1)
    biased = tiny_clip("clip")[0]
    biased.logit_bias = torch.nn.Parameter(torch.tensor(1.0))
    halved = tower_of().half()
    classifiers = {
        "same": build_classifier(tower_of(), NAMES),
        "order of names": build_classifier(tower_of(), NAMES[::-1]),
        "templates": build_classifier(tower_of(), NAMES, ["a {}", "the {}"]),
        "order of templates": build_classifier(tower_of(), NAMES, ["the {}", "a {}"]),
        "class prompts": build_classifier(tower_of(), NAMES, class_prompts=prompts),
        "weights": build_classifier(tower_of(seed=1), NAMES),
        "activation": build_classifier(tower_of("quickgelu"), NAMES),
        "name": build_classifier(tower_of(name="open_clip/ViT-B-32"), NAMES),
        "tokenizer": build_classifier(TextTower(scaled, tiny_clip("siglip")[1]), NAMES),
        "scale": build_classifier(TextTower(scaled, tokenizer), NAMES),
        "bias": build_classifier(TextTower(biased, tokenizer), NAMES),
        "mask": build_classifier(tower_of("bidirectional"), NAMES),
        "pooling": build_classifier(tower_of("eos"), NAMES),
        "precision": build_classifier(halved, NAMES),
    }
    assert len({classifier.key for classifier in classifiers.values()}) == len(classifiers)
    assert build_classifier(tower_of(), tuple(NAMES), "a_photo").key == classifiers["same"].key


def test_cache__that_cannot_be_made_or_written__same_classifier_and_nothing_kept(tower, tmp_path):
    expected = build_classifier(tower, NAMES)
    (tmp_path / "file").write_text("")
    (tmp_path / "full" / f"{expected.key}.safetensors" / "in the way").mkdir(parents=True)
    for cache in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "full"):
        built = build_classifier(tower, NAMES, cache=cache)
        assert torch.equal(built.weight, expected.weight)
        assert built.key == expected.key
    assert (tmp_path / "file").read_text() == ""
    assert [path.name for path in (tmp_path / "full").iterdir()] == [f"{expected.key}.safetensors"]


def test_default_cache__environment__is_asked_first(monkeypatch, tmp_path):
    monkeypatch.setenv("VPT_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "text_classifiers"
    monkeypatch.delenv("VPT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache/vpt/text_classifiers"


def test_names_that_the_tower_cannot_tell_apart__are_refused():
    tower = create_text_tower("bundled/glyph_clip")
    build_classifier(tower, ["three", "the number five", "class 7"])
    with pytest.raises(ConfigError, match="'kite': bundled/glyph_clip has learned no word of it"):
        build_classifier(tower, ["three", "kite"])
    with pytest.raises(ConfigError, match=r"'a cat' and 'a dog' read the same .* every word"):
        build_classifier(tower, ["a cat", "a dog"])
    with pytest.raises(ConfigError, match=r"'Red' and 'red' read the same to bundled/glyph_clip$"):
        build_classifier(tower, ["Red", "red"])
    with pytest.raises(ConfigError, match="has not learned every word"):
        LearnedContext(tower, ["three"], init="a flying zebra")
    with pytest.raises(ConfigError, match="has 4 tokens, not the 3 of num_tokens"):
        LearnedContext(tower, ["three"], init="a photo of a", num_tokens=3)
