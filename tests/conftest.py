"""Ground rules of all tests: one thread (two workers share two cores), no network."""

from __future__ import annotations

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)
# The first backward pass decides whether autograd has threads. After anything that makes fake
# tensors (compiling, exporting) it would start some for a GPU that is not there, and no process
# forked from this one could train.
torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Text classifiers are not kept in the user's cache."""
    os.environ["VPT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def no_drawing():
    """Runs draw no confusion matrix and count no FLOPs: both have tests, and take longer than all
    else in a tiny run."""
    import numpy as np

    import vpt.runs.showing
    import vpt.runs.training

    with pytest.MonkeyPatch.context() as patch:
        picture = np.zeros((4, 4, 3), np.uint8)
        patch.setattr(vpt.runs.showing, "draw_confusion_matrix", lambda *args, **options: picture)
        patch.setattr(vpt.runs.training, "flops_of", lambda experiment, log: None)
        yield


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
