"""From patch tokens to maps."""

from __future__ import annotations

import pytest
import torch

from vpt.config import validate
from vpt.errors import ConfigError
from vpt.heads import PyramidOptions, SimpleFeaturePyramid, build_pyramid, even_taps
from vpt.structures import Dimensions, Features


def features_of(grid, taps, dim=16, batch=2):
    count = grid[0] * grid[1]
    return Features(grid, taps={layer: torch.randn(batch, count, dim) for layer in taps})


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("grid", [(4, 4), (4, 8), (12, 4)])
def test_maps__have_the_scales_sides__and_the_width(grid, norm):
    scales = (4.0, 2.0, 1.0, 0.5, 0.25)
    neck = SimpleFeaturePyramid(16, (16, 16), (0, 1), channels=32, scales=scales, norm=norm)
    maps = neck(features_of(grid, (0, 1)))
    sides = [(int(grid[0] * scale), int(grid[1] * scale)) for scale in scales]
    assert [tuple(each.shape) for each in maps] == [(2, 32, *side) for side in sides]


@pytest.mark.parametrize(
    ("patch", "strides"),
    [(16, (4, 8, 16, 32, 64)), (14, (3.5, 7, 14, 28, 56)), (8, (2, 4, 8, 16, 32))],
)
def test_strides__are_exact__for_every_patch_size(patch, strides):
    scales = (4.0, 2.0, 1.0, 0.5, 0.25)
    neck = SimpleFeaturePyramid(16, (patch, patch), (0,), channels=32, scales=scales)
    assert neck.strides == strides


@pytest.mark.parametrize("grid", [(3, 5), (5, 5)])
def test_the_patch_map__puts_each_token_in_its_own_cell(grid):
    neck = SimpleFeaturePyramid(16, (16, 16), (0, 2), channels=32, scales=(1.0,))
    features = features_of(grid, (0, 2))
    maps = neck.patch_map(features)
    assert maps.shape == (2, 32, *grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            token = row * grid[1] + column
            expected = [
                torch.nn.functional.layer_norm(features.taps[layer][:, token], (16,))
                for layer in (0, 2)
            ]
            assert torch.allclose(maps[:, :, row, column], torch.cat(expected, dim=1), atol=1e-5)


@pytest.mark.parametrize("surplus", [1, 5, 16])
def test_tokens_that_are_no_patches__are_noticed__even_where_they_would_fit(surplus):
    neck = SimpleFeaturePyramid(16, (16, 16), (0,), channels=32)
    features = Features((4, 4), taps={0: torch.randn(2, 16 + surplus, 16)})
    with pytest.raises(AssertionError):
        neck(features)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_maps__do_not_depend_on_batch_neighbours(norm):
    neck = SimpleFeaturePyramid(16, (16, 16), (0,), channels=32, norm=norm).train()
    features = features_of((4, 4), (0,), batch=3)
    together = neck(features)
    alone = neck(Features((4, 4), taps={0: features.taps[0][1:2]}))
    for both, one in zip(together, alone, strict=True):
        assert torch.allclose(both[1:2], one, atol=1e-5)


def test_even_taps__end_with_the_last_block():
    assert even_taps(12, 4) == (2, 5, 8, 11)
    assert even_taps(12, 1) == (11,)
    assert even_taps(3, 2) == (0, 2)
    assert even_taps(3, 3) == (0, 1, 2)
    for count in (0, 4):
        with pytest.raises(ConfigError, match=f"taps {count}: the backbone has 3 blocks"):
            even_taps(3, count)


def test_the_width_of_group_norm__must_split():
    for channels, nearest in ((48, "32 or 64"), (16, "e.g. 32")):
        with pytest.raises(ConfigError, match=f"channels {channels} do not split.*{nearest}"):
            SimpleFeaturePyramid(16, (16, 16), (0,), channels=channels, norm="group")
    SimpleFeaturePyramid(16, (16, 16), (0,), channels=48, norm="layer")


def test_patches_that_are_not_square__are_refused():
    with pytest.raises(ConfigError, match="square patches, not 8x16"):
        SimpleFeaturePyramid(16, (8, 16), (0,))


@pytest.mark.parametrize("scales", [[], [3.0], [0.5, 1.0], [1.0, 1.0]])
def test_unknown_scales__are_refused__by_config_and_module(scales):
    with pytest.raises(ConfigError, match=r"pyramid: scales: .*must"):
        validate(PyramidOptions, {"scales": scales}, source="pyramid")
    with pytest.raises(ConfigError, match=r"pyramid.scales .*must"):
        SimpleFeaturePyramid(16, (16, 16), (0,), scales=scales)


def test_build_pyramid__makes_the_same_one_from_its_options():
    at = Dimensions(
        embed_dim=16,
        feature_dim=16,
        depth=4,
        patch_size=(14, 14),
        image_size=(56, 56),
        num_prefix=1,
    )
    options = validate(PyramidOptions, {"taps": 2, "scales": [1, 0.5]}, source="x").model_dump()
    neck = build_pyramid(options, at, 32)
    assert neck.taps == (1, 3)
    assert neck.strides == (14, 28)
    again = build_pyramid(neck.options, at, 32)
    again.load_state_dict(neck.state_dict())
    assert again.options == neck.options == {**options, "scales": [1.0, 0.5]}
