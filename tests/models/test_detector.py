"""A detector over every kind of backbone: maps, gradients, files, frames."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tests.contracts.kinds import KINDS, make
from tests.models.detectors import batch_of, images_of, make_detector, pictures
from vpt.backbones import wrap_backbone
from vpt.backbones.base import weights_hash
from vpt.backbones.bundled.glyph_vit import WEIGHTS
from vpt.errors import ConfigError, PromptFileError
from vpt.evaluation import DetectionEvaluator
from vpt.heads import FcosHead, SimpleFeaturePyramid
from vpt.models import Classifier, Detector, PromptedModel
from vpt.structures import Letterbox

has_glyph = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the bundled weights are not built")
ALL_KINDS = [
    pytest.param(kind, marks=has_glyph if kind == "glyph_vit" else ()) for kind in sorted(KINDS)
]
SOME_KINDS = ["test_vit", "siglip", "dinov3", "rope_mixed", "clip_pre_norm", "clip_tok"]
HEADS = ["fcos", "retinanet"]

heads = pytest.mark.parametrize("head", HEADS)
some_kinds = pytest.mark.parametrize("kind", SOME_KINDS)


def targets_of(detector, count=2):
    """One box in the middle of every image."""
    height, width = detector.preprocess.size
    box = [width * 0.2, height * 0.2, width * 0.7, height * 0.8]
    return [([box], [place % 3]) for place in range(count)]


def loss_of(detector, seed=0):
    images = images_of(detector, 2, seed)
    return detector.loss(batch_of(images, targets_of(detector)))


# ------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_maps__have_exact_sides__for_every_kind(kind):
    detector = make_detector(kind)
    height, width = detector.preprocess.size
    maps = detector.maps(images_of(detector))
    for each, stride in zip(maps, detector.neck.strides, strict=True):
        assert tuple(each.shape) == (2, 32, height / stride, width / stride)


@some_kinds
@pytest.mark.parametrize("size", [(32, 48), (48, 32), (32, 32)])
@pytest.mark.parametrize("prompt", ["none", "vpt_shallow", "vpt_deep"])
def test_a_changed_patch__changes_its_own_cell_most(kind, size, prompt):
    detector = make_detector(kind, prompt, size=size)
    rows, columns = size[0] // 8, size[1] // 8
    images = images_of(detector, 1)
    with torch.no_grad():
        before = _first_tap(detector, images)
        for row, column in [(0, 0), (1, columns - 1), (rows - 1, 2), (rows - 1, columns - 1)]:
            marked = images.clone()
            marked[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 8.0
            change = (_first_tap(detector, marked) - before).norm(dim=1)[0]
            assert change.shape == (rows, columns)
            assert divmod(int(change.argmax()), columns) == (row, column)


def _first_tap(detector, images):
    """The map of block 0, where a patch is still mostly itself: (1, D, h, w)."""
    at = detector.backbone.dimensions
    neck = SimpleFeaturePyramid(at.embed_dim, at.patch_size, (0,), channels=32)
    return neck.patch_map(detector.prompted(images, need=(), taps=(0,)))


@some_kinds
@pytest.mark.parametrize("prompt", ["vpt_shallow", "vpt_deep"])
def test_prompts_never_reach_the_maps__however_they_go_in(kind, prompt):
    native = make(kind)
    inserted, as_context = make_detector(native, prompt, insert=True), make_detector(native, prompt)
    as_context.load_trained(dict(inserted.trained_tensors()))
    images = images_of(inserted)
    with torch.no_grad():
        pairs = zip(inserted.maps(images), as_context.maps(images), strict=True)
        for one, other in pairs:
            assert one.shape == other.shape
            assert torch.allclose(one, other, atol=2e-4)


@some_kinds
def test_prompts__do_change_the_maps(kind):
    detector = make_detector(kind)
    images = images_of(detector)
    with torch.no_grad():
        before = detector.maps(images)
        for parameter in detector.prompt.parameters():
            parameter += 1.0
        after = detector.maps(images)
    assert all(not torch.allclose(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("size", "fits"), [(56, True), (84, True), (70, False), (42, False)])
def test_patches_of_14_pixels__have_strides_7_14_28__and_need_multiples_of_28(size, fits):
    native = VisionTransformer(img_size=size, patch_size=14, embed_dim=32, depth=2, num_heads=2)
    if not fits:
        with pytest.raises(ConfigError, match=f"{size}x{size} is no multiple of .* stride 28"):
            make_detector(native)
        return
    detector = make_detector(native)
    maps = detector.maps(images_of(detector))
    assert detector.head.strides == (7, 14, 28)
    assert [each.shape[-1] for each in maps] == [size // 7, size // 14, size // 28]


def test_images_of_a_size_that_the_coarsest_map_does_not_cover__are_refused():
    with pytest.raises(ConfigError, match=r"32x48 is no multiple .* stride 32; use e.g. 32x32"):
        make_detector("test_vit", scales=(1.0, 0.5, 0.25))
    with pytest.raises(ConfigError, match="40x48 is no multiple"):
        make_detector("test_vit").maps(torch.zeros(1, 3, 40, 48))


# ----------------------------------------------------------------------------------------- losses


@heads
@some_kinds
def test_gradients__reach_every_trained_tensor__and_leave_the_backbone_alone(kind, head):
    detector = make_detector(kind, head=head).train()
    before = weights_hash(dict(detector.backbone.state_dict()))
    optimizer = torch.optim.AdamW(detector.trainable_parameters(), lr=1e-2)
    reached = set()
    for step in range(2):
        optimizer.zero_grad()
        loss_of(detector, step)["loss"].backward()
        tensors = dict(detector.trained_tensors())
        reached |= {name for name, t in tensors.items() if t.grad.abs().max() > 0}
        optimizer.step()
    assert reached == tensors.keys()
    assert {name.split(".")[0] for name in reached} == {"prompt", "neck", "head"}
    assert weights_hash(dict(detector.backbone.state_dict())) == before


def test_selected_backbone_tensors__are_trained_too():
    detector = make_detector("test_vit", tuning="last:1").train()
    loss_of(detector)["loss"].backward()
    tuned = {n: t for n, t in detector.trained_tensors() if n.startswith("backbone.")}
    in_the_block = {name for name in tuned if ".blocks.5." in name}
    assert in_the_block
    assert all(tuned[name].grad.abs().max() > 0 for name in in_the_block)


@heads
def test_the_loss__is_the_sum_of_its_parts__in_any_mode(head):
    detector = make_detector("test_vit", head=head)
    trained, evaluated = loss_of(detector.train()), loss_of(detector.eval())
    parts = {name for name in trained if name.startswith("loss_")}
    expected = {"loss_classification", "loss_box"} | (
        {"loss_centerness"} if head == "fcos" else set()
    )
    assert parts == expected
    assert ("positives" in trained) == (head == "fcos")
    total = sum(trained[name].item() for name in parts)
    assert trained["loss"].item() == pytest.approx(total, rel=1e-5)
    assert all(torch.equal(trained[name], evaluated[name]) for name in trained)
    found = detector.train()(images_of(detector))
    assert len(found) == len(detector.eval()(images_of(detector))) == 2


@heads
def test_batches_without_any_box__train(head):
    detector = make_detector("test_vit", head=head).train()
    losses = detector.loss(batch_of(images_of(detector), [([], []), ([], [])]))
    losses["loss"].backward()
    assert losses["loss_box"] == 0
    gradients = [p.grad for p in detector.trainable_parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_head_alone__runs_the_blocks_without_gradients():
    detector = make_detector("test_vit", prompt="none").train()
    recorded = []
    detector.prompted.register_forward_hook(
        lambda module, args, output: recorded.extend(output.taps.values())
    )
    loss_of(detector)["loss"].backward()
    assert len(recorded) == 2
    assert not any(tap.requires_grad for tap in recorded)
    names = {name.split(".")[0] for name, _ in detector.trained_tensors()}
    assert names == {"neck", "head"}
    assert all(p.grad is not None for p in detector.trainable_parameters())


def test_a_prompt__runs_the_blocks_with_gradients__unless_they_are_off():
    detector = make_detector("test_vit")
    assert detector.maps(images_of(detector))[0].requires_grad
    with torch.no_grad():
        assert not detector.maps(images_of(detector))[0].requires_grad


# ------------------------------------------------------------------------------------- detections


@heads
@some_kinds
def test_detections__do_not_depend_on_batch_neighbours(kind, head):
    detector = make_detector(kind, head=head, score_threshold=0.0)
    images = images_of(detector, 3)
    images[2] *= 20.0
    together, alone = detector(images)[0], detector(images[:1])[0]
    assert len(together) == len(alone)
    assert torch.allclose(together.scores, alone.scores, atol=1e-4)
    # Among equal scores the order may differ; the best must not.
    assert torch.allclose(together.boxes[0], alone.boxes[0], atol=1e-2)


def test_predict__gives_the_files_pixels__without_what_lies_in_the_padding():
    detector = make_detector("test_vit", size=(32, 32), score_threshold=0.0)
    images = images_of(detector, 2)
    letterboxes = [Letterbox.fit((200, 100), 32), Letterbox.fit((64, 64), 32)]
    inside, outside = detector(images), detector.predict(images, letterboxes)
    for before, after, factor, width in zip(inside, outside, (6.25, 2), (16, 32), strict=True):
        left, right = before.boxes[:, 0], before.boxes[:, 2].clamp(max=width)
        kept = (right > left) & (before.boxes[:, 3] > before.boxes[:, 1])
        expected = before.boxes[kept].clone()
        expected[:, 2] = right[kept]
        assert torch.allclose(after.boxes, expected * factor)
        assert torch.equal(after.scores, before.scores[kept])
        assert torch.equal(after.labels, before.labels[kept])
    in_padding = inside[0].boxes[:, 0] > 16
    assert 0 < int(in_padding.sum()) < len(in_padding)


# -------------------------------------------------------------------------------- files and parts


def test_trained_tensors__go_to_another_model_by_their_names():
    native = make("test_vit")
    one, other = make_detector(native), make_detector(native)
    with torch.no_grad():
        for parameter in one.trainable_parameters():
            parameter.uniform_(-0.1, 0.1)
    tensors = {name: tensor.detach().clone() for name, tensor in one.trained_tensors()}
    other.load_trained(tensors)
    images = images_of(one)
    for a, b in zip(one(images), other(images), strict=True):
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.scores, b.scores)
    assert one.class_names == ["disc", "square", "bar"]
    tensors.pop("neck.project.0.weight")
    with pytest.raises(PromptFileError, match=r"missing \['neck.project.0.weight'\]"):
        other.load_trained(tensors)


def test_no_trained_tensor__is_held_twice__or_is_the_frozen_backbones():
    detector = make_detector("test_vit")
    tensors = [tensor for _, tensor in detector.trained_tensors()]
    assert len({id(tensor) for tensor in tensors}) == len(tensors)
    own = {id(p) for p in detector.parameters()} - {id(p) for p in detector.backbone.parameters()}
    assert {id(tensor) for tensor in tensors} == own


def test_parameters__are_counted_by_part():
    detector = make_detector("test_vit")
    counts = detector.parameter_counts()
    assert list(counts) == ["prompt", "neck", "head", "backbone"]
    trained = sum(p.numel() for p in detector.trainable_parameters())
    assert counts["prompt"] + counts["neck"] + counts["head"] == trained
    assert counts["backbone"] == sum(p.numel() for p in detector.backbone.parameters())


def test_both_models__are_prompted_models():
    assert issubclass(Detector, PromptedModel)
    assert issubclass(Classifier, PromptedModel)


def test_parts_that_do_not_fit__are_refused():
    detector = make_detector("test_vit")
    prompted, neck = detector.prompted, detector.neck
    with pytest.raises(ConfigError, match=r"taps \(1,\) differ from the pyramid's \(2, 5\)"):
        Detector(prompted, neck, detector.head, taps=(1,))
    with pytest.raises(ConfigError, match=r"takes 64 channels at .* gives 32"):
        Detector(prompted, neck, FcosHead(3, neck.strides, channels=64))
    with pytest.raises(ConfigError, match=r"strides \(8.0,\), the pyramid"):
        Detector(prompted, neck, FcosHead(3, (8.0,), channels=32))
    with pytest.raises(ConfigError, match="2 class_names for a head of 3 classes"):
        Detector(prompted, neck, detector.head, ["one", "two"])
    deep = SimpleFeaturePyramid(64, (8, 8), (0, 7), channels=32)
    with pytest.raises(ConfigError, match=r"taps \(0, 7\) exceed the 6 blocks"):
        Detector(prompted, deep, detector.head)


# --------------------------------------------------------------------------------------- learning


def average_precision(detector, batch):
    """COCO's numbers on the batch that was learned, as if from files of twice its size."""
    side = detector.preprocess.size[0]
    letterboxes = [Letterbox.fit((2 * side, 2 * side), side) for _ in batch.targets]
    annotations = []
    for image_id, (targets, letterbox) in enumerate(zip(batch.targets, letterboxes, strict=True)):
        for box, label in zip(
            letterbox.to_original(targets.boxes).tolist(), targets.labels.tolist(), strict=True
        ):
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            annotations.append({"image_id": image_id, "category_id": 10 + label, "bbox": xywh})
    truth = {
        "images": [{"id": image_id} for image_id in range(len(letterboxes))],
        "categories": [{"id": 10 + label, "name": f"class {label}"} for label in range(3)],
        "annotations": annotations,
    }
    evaluator = DetectionEvaluator(truth, [10, 11, 12])
    evaluator.update(range(len(letterboxes)), detector.predict(batch.images, letterboxes))
    return evaluator.compute()


def learn(detector, batch, steps):
    optimizer = torch.optim.AdamW(detector.trainable_parameters(), lr=3e-3)
    detector.train()
    for _ in range(steps):
        optimizer.zero_grad()
        detector.loss(batch)["loss"].backward()
        optimizer.step()
    return detector.eval()


@heads
def test_four_pictures__are_learned_by_heart(head):
    detector = make_detector("test_vit", head=head, size=(64, 64), channels=64)
    batch = pictures(4)
    learned = learn(detector, batch, {"fcos": 60, "retinanet": 100}[head])
    assert average_precision(learned, batch)["AP50"] > 0.5


@pytest.mark.slow
@heads
@pytest.mark.parametrize("prompt", ["none", "vpt_deep"])
def test_eight_pictures__are_learned_by_heart__almost_exactly(head, prompt):
    detector = make_detector("test_vit", prompt, head=head, size=(64, 64), channels=64)
    batch = pictures(8)
    metrics = average_precision(learn(detector, batch, 300), batch)
    assert metrics["AP50"] > 0.9
    assert metrics["AP"] > 0.5


def test_a_shared_backbone__is_used_by_both_models():
    body = wrap_backbone(make("test_vit"))
    one, other = make_detector(body), make_detector(body)
    assert one.backbone is other.backbone
