"""What every registered detection head passes, and where the anchors stand."""

from __future__ import annotations

import copy

import pytest
import torch

from vpt.config import Registered
from vpt.errors import ConfigError, DataError
from vpt.heads import build_detection_head
from vpt.heads.anchors import CellAnchors
from vpt.registry import DETECTION_HEADS
from vpt.structures import DetectionTargets

CLASSES = 4
SIZE = 64
STRIDES = (8.0, 16.0, 32.0)
heads = pytest.mark.parametrize("name", DETECTION_HEADS.names())


def make_head(name, strides=STRIDES, **options):
    torch.manual_seed(0)
    given = {"name": name, "channels": 32, "num_convs": 1, **options}
    return build_detection_head(Registered(DETECTION_HEADS).check(given), CLASSES, strides)


def levels_of(batch=2, strides=STRIDES, size=SIZE, channels=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sides = [round(size / stride) for stride in strides]
    return [torch.randn(batch, channels, side, side, generator=generator) for side in sides]


def target(boxes, labels):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return DetectionTargets(boxes, torch.tensor(labels, dtype=torch.int64))


def test_the_heads__are_two():
    assert DETECTION_HEADS.names() == ["fcos", "retinanet"]


# ---------------------------------------------------------------------------------------- anchors


def test_anchors__stand_at_cell_centres__row_by_row():
    anchors = CellAnchors((8.0,), [(8.0,)]).per_level([torch.zeros(1, 1, 2, 3)])[0]
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert torch.equal(anchors[:, 2:] - anchors[:, :2], torch.full((6, 2), 8.0))


@pytest.mark.parametrize(
    ("patch", "size", "scales"),
    [(16, 640, (2, 1, 0.5)), (14, 532, (4, 2, 1, 0.5)), (14, 448, (2, 1))],
)
def test_anchors__tile_the_image_exactly__at_every_stride(patch, size, scales):
    strides = [patch / scale for scale in scales]
    levels = [torch.zeros(1, 1, round(size / s), round(size / s)) for s in strides]
    per_level = CellAnchors(strides, [(s,) for s in strides]).per_level(levels)
    for stride, anchors in zip(strides, per_level, strict=True):
        assert anchors.min() == 0
        assert anchors.max() == size
        assert torch.equal(anchors[:, 2] - anchors[:, 0], torch.full((len(anchors),), stride))
        assert (anchors[1, 0] - anchors[0, 0]) == stride


def test_anchor_shapes__keep_their_area__and_ratio():
    anchors = CellAnchors((7.0,), [(28.0, 35.0)], (0.5, 1.0, 2.0)).per_level(
        [torch.zeros(1, 1, 1, 1)]
    )
    sides = anchors[0][:, 2:] - anchors[0][:, :2]
    assert torch.allclose(sides.prod(dim=1), torch.tensor([28.0**2, 35.0**2] * 3))
    ratios = torch.tensor([0.5, 0.5, 1.0, 1.0, 2.0, 2.0])
    assert torch.allclose(sides[:, 1] / sides[:, 0], ratios)


# ------------------------------------------------------------------------------------------- loss


@heads
def test_the_losses_parts__are_named__finite_scalars(name):
    head = make_head(name)
    losses = head.loss(levels_of(), [target([[4, 4, 30, 40]], [0]), target([[0, 0, 64, 64]], [3])])
    assert tuple(losses) == head.loss_names
    assert all(loss.shape == () and torch.isfinite(loss) for loss in losses.values())
    assert all(loss > 0 for loss in losses.values())


@heads
def test_loss_and_detections__do_not_depend_on_the_mode(name):
    head, levels = make_head(name), levels_of()
    targets = [target([[4, 4, 30, 40]], [1]), target([[10, 0, 50, 20]], [2])]
    trained, found = head.train().loss(levels, targets), head.detect(levels)
    evaluated, found_in_eval = head.eval().loss(levels, targets), head.detect(levels)
    assert all(torch.equal(trained[part], evaluated[part]) for part in trained)
    for one, other in zip(found, found_in_eval, strict=True):
        assert torch.equal(one.boxes, other.boxes)


@heads
def test_images_without_boxes__are_background__and_give_gradients(name):
    head, levels = make_head(name), levels_of()
    empty = target([], [])
    losses = head.loss(levels, [empty, empty])
    assert losses["classification"] > 0
    assert losses["box"] == 0
    torch.stack(list(losses.values())).sum().backward()
    gradients = [parameter.grad for parameter in head.parameters()]
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)
    mixed = head.loss(levels, [empty, target([[4, 4, 30, 40]], [1])])
    assert mixed["box"] > 0


@heads
@pytest.mark.parametrize("label", [0, CLASSES - 1])
def test_the_first_and_the_last_class__are_learned_as_themselves(name, label):
    head, levels = make_head(name), levels_of(batch=1)
    given = [target([[8, 8, 40, 40]], [label])]
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.stack(list(head.loss(levels, given).values())).sum().backward()
        optimizer.step()
    best = head.detect(levels)[0]
    assert int(best.labels[0]) == label
    assert torch.allclose(best.boxes[0], torch.tensor([8.0, 8.0, 40.0, 40.0]), atol=6.0)


@heads
@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class__is_refused(name, label):
    with pytest.raises(
        DataError, match=f"image 1 of the batch has label {label}; classes are 0..3"
    ):
        make_head(name).loss(levels_of(), [target([], []), target([[0, 0, 9, 9]], [label])])


@heads
@pytest.mark.parametrize("box", [[4, 4, 4, 9], [9, 9, 4, 12], [0, 0, float("nan"), 5]])
def test_a_box_without_area__is_refused(name, box):
    with pytest.raises(DataError, match=r"image 0 of the batch has the box .* without an area"):
        make_head(name).loss(levels_of(), [target([box], [0]), target([], [])])


@heads
def test_loss_in_bf16__is_computed_in_fp32(name):
    head, levels = make_head(name), levels_of()
    targets = [target([[4, 4, 30, 40]], [1]), target([], [])]
    with torch.autocast("cpu", torch.bfloat16):
        losses, found = head.loss(levels, targets), head.detect(levels)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert found[0].boxes.dtype == torch.float32
    plain = head.loss(levels, targets)
    assert all(torch.allclose(losses[part], plain[part], rtol=0.05) for part in plain)


# ------------------------------------------------------------------------------------- detections


@heads
def test_a_new_head__finds_at_its_threshold__and_nothing_above_it(name):
    found = make_head(name, score_threshold=0.0).detect(levels_of())
    assert [len(each) for each in found] == [100, 100]
    for each in found:
        assert (each.scores[:-1] >= each.scores[1:]).all()
        assert each.boxes.min() >= 0
        assert each.boxes.max() <= SIZE
        assert each.labels.min() >= 0
        assert each.labels.max() < CLASSES
    nothing = make_head(name, score_threshold=0.9).detect(levels_of())
    assert [len(each) for each in nothing] == [0, 0]
    assert nothing[0].boxes.shape == (0, 4)
    few = make_head(name, score_threshold=0.0, detections_per_image=7).detect(levels_of())
    assert [len(each) for each in few] == [7, 7]


def test_a_new_fcos_head__is_not_silent_at_the_default_threshold():
    found = make_head("fcos").detect(levels_of())
    assert all(len(each) > 0 for each in found)


@heads
def test_detections__do_not_depend_on_batch_neighbours(name):
    head, levels = make_head(name, score_threshold=0.0), levels_of(batch=3)
    together = head.detect(levels)[1]
    alone = head.detect([level[1:2] for level in levels])[0]
    assert torch.equal(together.labels, alone.labels)
    assert torch.allclose(together.boxes, alone.boxes, atol=1e-3)
    assert torch.allclose(together.scores, alone.scores, atol=1e-5)


# ---------------------------------------------------------------------------------------- options


@heads
def test_options__make_the_same_head_again(name):
    head = make_head(name, num_convs=2, nms_threshold=0.55)
    again = build_detection_head(head.options, CLASSES, STRIDES)
    assert Registered(DETECTION_HEADS).check(head.options) == head.options
    again.load_state_dict(head.state_dict())
    levels = levels_of()
    for one, other in zip(head.detect(levels), again.detect(levels), strict=True):
        assert torch.equal(one.boxes, other.boxes)


@heads
def test_a_copied_head__is_one_of_its_own(name):
    head, levels = make_head(name), levels_of()
    before = head.detect(levels)
    copied = copy.deepcopy(head)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(head.detect(levels)[0].boxes, before[0].boxes)
    assert [len(each) for each in copied.detect(levels)] != [len(each) for each in before] or (
        not torch.equal(copied.detect(levels)[0].scores, before[0].scores)
    )


@heads
def test_a_width_that_group_norm_cannot_split__is_refused(name):
    with pytest.raises(ConfigError, match="channels 48 do not split into the 32 groups"):
        make_head(name, channels=48)


@heads
def test_every_convolution_counts(name):
    def parameters(convs):
        return sum(p.numel() for p in make_head(name, num_convs=convs).parameters())

    per_conv = {"fcos": 32 * 32 * 9 + 32 + 64, "retinanet": 32 * 32 * 9 + 64}[name]  # and its norm
    assert parameters(3) - parameters(2) == 2 * per_conv


def test_parameters__are_those_of_the_published_heads():
    fcos = build_detection_head(Registered(DETECTION_HEADS).check({"name": "fcos"}), 20, STRIDES)
    assert sum(p.numel() for p in fcos.parameters()) == pytest.approx(4.78e6, rel=0.01)
