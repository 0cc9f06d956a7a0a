"""Start values of prompt parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def paper_uniform_bound(patch_size: tuple[int, int], prompt_dim: int) -> float:
    """Bound v of U(-v, v): Xavier's rule with a prompt seen as one more patch filter.

    Jia et al. 2022, section 3.2:

    v = sqrt(6 / (3 * patch height * patch width + prompt_dim)); 0.0625 for ViT-B/16.
    """
    return math.sqrt(6.0 / (3 * patch_size[0] * patch_size[1] + prompt_dim))


def sample_patches(patches: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different patch tokens (count, D) drawn from (B, N, D), as in SPT (Wang et al. 2024).

    Raises:
        ValueError: fewer than `count` patch tokens.
    """
    flat = patches.flatten(0, 1)
    if len(flat) < count:
        raise ValueError(f"{len(flat)} patch tokens cannot start {count} prompt tokens")
    return flat[torch.randperm(len(flat), generator=generator)[:count]]
