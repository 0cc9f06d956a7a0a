import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpt.data.transforms.mixing import NO_MIXING, Mixing, _span, mix
from vpt.structures import Batch

MIXUP, CUTMIX = Mixing(mixup_alpha=0.8), Mixing(cutmix_alpha=1.0)


def batch_of(size: int = 6, *, several: bool = False, side: int = 16) -> Batch:
    """Every image has one value everywhere, its own: a mixed pixel tells what it came from."""
    images = torch.arange(1.0, size + 1)[:, None, None, None].expand(-1, 3, side, side + 4)
    targets = torch.eye(4)[torch.arange(size) % 4] + torch.eye(4)[(torch.arange(size) + 1) % 4]
    labels = targets if several else torch.arange(size) % 4
    return Batch(images.clone(), labels, torch.arange(size))


def mixed(mixing: Mixing, seed: int, **options) -> Batch:
    return mix(batch_of(**options), mixing, num_classes=4, seed=seed)


def test_mixup__is_the_same_share_of_image_and_target():
    plain = batch_of()
    shares = set()
    for seed in range(20):
        batch = mixed(MIXUP, seed)
        values = batch.images[:, 0, 0, 0]
        assert torch.equal(batch.images, values[:, None, None, None].expand_as(batch.images))
        assert batch.labels.shape == (6, 4)
        torch.testing.assert_close(batch.labels.sum(dim=1), torch.ones(6))
        # The values of a batch are those of its images, and mixing moves none of their sum.
        torch.testing.assert_close(values.sum(), plain.images[:, 0, 0, 0].sum())
        shares.add(round(float(values[0]), 6))
    assert len(shares) > 10


def test_mixup__against_its_formula():
    plain, seed = batch_of(), 3
    random = np.random.default_rng(seed)
    random.random()  # whether to mix
    share, partners = random.beta(0.8, 0.8), random.permutation(6)
    batch = mixed(MIXUP, seed)
    images = share * plain.images + (1 - share) * plain.images[partners]
    targets = torch.eye(4)[plain.labels]
    torch.testing.assert_close(batch.images, images.float())
    expected = (share * targets + (1 - share) * targets[partners]).float()
    torch.testing.assert_close(batch.labels, expected)


def test_cutmix__pixels_are_of_one_of_two_images__and_targets_go_by_their_area():
    cut = 0
    for seed in range(30):
        batch, plain = mixed(CUTMIX, seed), batch_of()
        own = plain.images == batch.images
        kept = own.float().mean(dim=(1, 2, 3))
        moved = (~own).flatten(1).any(dim=1)
        for row in moved.nonzero().flatten().tolist():
            strange = batch.images[row][~own[row]].unique()
            assert len(strange) == 1
            partner = int(strange) - 1
            expected = torch.zeros(4)
            expected[row % 4] += kept[row]
            expected[partner % 4] += 1 - kept[row]
            torch.testing.assert_close(batch.labels[row], expected)
        cut += bool(moved.any())
    assert cut > 20


def test_cutmix__box_of_one_axis__is_as_long_as_asked_inside_and_clipped_outside():
    lengths = [_span(100, 0.5, np.random.default_rng(seed)) for seed in range(200)]
    assert all(0 <= start < end <= 100 and end - start <= 50 for start, end in lengths)
    assert sum(end - start == 50 for start, end in lengths) > 60
    assert {_span(9, 1 / 3, np.random.default_rng(s)) for s in range(300)} >= {(3, 6), (0, 2)}


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX, Mixing(0.8, 1.0)])
def test_the_seed__decides_every_bit(mixing):
    one, again, other = (mixed(mixing, seed) for seed in (5, 5, 6))
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.images, other.images)


def test_global_generators__are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    expected = (torch.rand(2), np.random.rand(2))
    torch.manual_seed(0)
    np.random.seed(0)
    mixed(Mixing(0.8, 1.0), 1)
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.rand(2), expected[1])


@pytest.mark.parametrize("mixing", [NO_MIXING, Mixing(0.8, 1.0, prob=0.0)])
def test_without_strength__the_batch_is_the_one_given(mixing):
    batch = batch_of()
    assert not mixing
    assert mix(batch, mixing, num_classes=4, seed=0) is batch


def test_prob_and_switch_prob__are_how_often():
    plain = batch_of().images
    mixing = Mixing(0.8, 1.0, prob=0.5, switch_prob=0.25)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(400):
        images = mixed(mixing, seed).images
        flat = bool((images == images[..., :1, :1]).all())
        kinds["none" if torch.equal(images, plain) else "mixup" if flat else "cutmix"] += 1
    assert kinds["none"] == pytest.approx(200, abs=45)
    assert kinds["cutmix"] == pytest.approx(50, abs=25)


def test_multi_label_targets__are_mixed_as_they_are():
    batch, plain = mixed(MIXUP, 1, several=True), batch_of(several=True)
    torch.testing.assert_close(batch.labels.sum(dim=1), plain.labels.sum(dim=1))
    torch.testing.assert_close(batch.labels.sum(dim=0), plain.labels.sum(dim=0))
    assert ((batch.labels > 0) & (batch.labels < 1)).any()


@given(st.integers(0, 2**62), st.integers(1, 9), st.floats(0, 4), st.floats(0, 4))
def test_any_batch__keeps_its_shape_and_the_sum_of_its_targets(seed, size, mixup, cutmix):
    mixing = Mixing(mixup, cutmix)
    batch = mix(batch_of(size), mixing, num_classes=4, seed=seed)
    assert batch.images.shape == batch_of(size).images.shape
    assert batch.images.isfinite().all()
    if mixing:
        torch.testing.assert_close(batch.labels.sum(dim=1), torch.ones(size))
