import copy
import io
import pickle  # noqa: TID251 (what multiprocessing sends)
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.text.models import CONTEXT_LENGTH, EMBED_DIM, KINDS, WIDTH, tiny_clip
from vpt.backbones.base import weights_hash
from vpt.backbones.names import BUNDLED_CLIP
from vpt.backbones.open_clip_models import create_open_clip, create_tokenizer
from vpt.errors import BackboneError, ConfigError
from vpt.text import TextTower, create_text_tower

TEXTS = ["a photo of a cat.", "", "two x-ray machines, from the side", "ein Café"]


def tower_of(kind, seed=0):
    return TextTower(*tiny_clip(kind, seed))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@torch.no_grad()
def test_encode__any_tower__bits_of_the_models_own(kind):
    model, tokenizer = tiny_clip(kind)
    tower = TextTower(model, tokenizer)
    features = tower.encode(tower.tokenize(TEXTS))
    model.requires_grad_(False)
    own = model.encode_text(tokenizer(TEXTS, context_length=CONTEXT_LENGTH), normalize=False)
    assert torch.equal(features, own)
    assert features.shape == (len(TEXTS), EMBED_DIM)
    assert (features[0] - features[2]).abs().max() > 1e-2  # the texts do matter


def test_encode_embedded__embeddings_of_the_texts__same_features(kind):
    tower = tower_of(kind)
    tokens = tower.tokenize(TEXTS)
    embeddings = tower.embed(tokens)
    assert embeddings.shape == (len(TEXTS), CONTEXT_LENGTH, tower.width)
    features = tower.encode_embedded(embeddings, tokens)
    torch.testing.assert_close(features, tower.encode(tokens), atol=1e-6, rtol=0)


def test_encode_embedded__moved_embeddings__gradients_reach_them_and_no_tensor_of_the_tower(kind):
    tower = tower_of(kind)
    tokens = tower.tokenize(TEXTS)
    embeddings = tower.embed(tokens).detach().requires_grad_()
    features = tower.encode_embedded(embeddings, tokens)
    features.sum().backward()
    assert embeddings.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in tower.parameters())
    with torch.no_grad():
        moved = embeddings + torch.randn(embeddings.shape)
        assert (tower.encode_embedded(moved, tokens) - features).abs().max() > 1e-2
        assert torch.equal(tower.encode(tokens), tower_of(kind).encode(tokens))  # nothing is left


def test_text_tower__of_a_model__copies_the_text_part_and_leaves_the_model_alone(kind):
    model, tokenizer = tiny_clip(kind)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tower = TextTower(model, tokenizer)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    parts = {name.split(".")[1] for name in tower.state_dict()}
    assert not parts & {"visual", "text_decoder", "logit_scale", "logit_bias"}


def test_text_tower__told_to_train__stays_in_eval_and_frozen(kind):
    owner = nn.ModuleList([tower_of(kind)]).train()
    assert owner.training
    assert not any(module.training for module in owner[0].modules())
    assert not any(parameter.requires_grad for parameter in owner.parameters())


def test_text_tower__facts__are_the_models_own():
    facts = {kind: tower_of(kind) for kind in KINDS}
    assert {kind: tower.activation for kind, tower in facts.items()} == {
        **dict.fromkeys(KINDS, "GELU"),
        "quickgelu": "QuickGELU",
        "siglip": "GELU(tanh)",
    }
    assert {tower.feature_dim for tower in facts.values()} == {EMBED_DIM}
    assert facts["clip"].width == WIDTH
    assert facts["clip"].context_length == CONTEXT_LENGTH
    model = tiny_clip("siglip")[0]
    assert facts["siglip"].logit_scale == model.logit_scale.exp().item()
    assert facts["siglip"].logit_bias == -10.0
    assert facts["clip"].logit_bias is None


def test_text_tower__hash__of_the_text_weights_alone():
    model, tokenizer = tiny_clip("clip")
    tower = TextTower(model, tokenizer)
    assert tower.sha256 == weights_hash(dict(tower.body.state_dict()))
    with torch.no_grad():
        model.visual.proj.add_(1)
        model.logit_scale.add_(1)
    assert TextTower(model, tokenizer).sha256 == tower.sha256
    assert tower_of("clip", seed=1).sha256 != tower.sha256


def test_text_tower__same_weights_read_in_another_way__another_structure():
    towers = [tower_of(kind) for kind in KINDS]
    assert len({tower.structure for tower in towers}) == len(KINDS)
    assert tower_of("clip", seed=1).structure == towers[0].structure
    assert towers[2].sha256 == towers[4].sha256  # weights alone do not tell masks and pooling


def test_tokenize__too_long__one_line_with_the_text_its_tokens_and_the_limit():
    with pytest.raises(
        ConfigError, match=r"^text 'cat\\ncat.*\.\.\.' takes 32 tokens, .* 24;"
    ) as caught:
        tower_of("clip").tokenize(["a cat", "cat\n" * 30])
    assert len(str(caught.value).splitlines()) == 1


def test_text_tower__deepcopy_and_pickle__independent_and_equal(kind):
    tower = tower_of(kind)
    tokens = tower.tokenize(TEXTS)
    features = tower.encode(tokens)
    pickled = pickle.load(io.BytesIO(pickle.dumps(tower)))
    for other in (copy.deepcopy(tower), pickled):
        assert torch.equal(other.encode(tokens), features)
        assert torch.equal(other.tokenize(TEXTS), tokens)
        next(other.parameters()).data.zero_()
    assert torch.equal(tower.encode(tokens), features)


def test_text_tower__on_meta__has_no_hash():
    model, tokenizer = tiny_clip("siglip")
    tower = TextTower(model.to("meta"), tokenizer)
    assert tower.sha256 is None
    assert tower.encode(tower.tokenize(TEXTS)).device.type == "meta"


class HuggingFaceTower(nn.Module):
    """As much of open_clip's HFTextEncoder as its users see."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=8, hidden_act="gelu_new")
        self.output_dim = EMBED_DIM
        self.words = nn.Embedding(49408, EMBED_DIM)

    def forward(self, tokens):
        return self.words(tokens).mean(dim=1)


def test_hugging_face_tower__encodes__but_takes_no_embeddings():
    model, tokenizer = tiny_clip("siglip")
    model.text = HuggingFaceTower()
    tower = TextTower(model, tokenizer, "open_clip/roberta-ViT-B-32:laion2b_s12b_b32k")
    tokens = tower.tokenize(TEXTS)
    assert torch.equal(tower.encode(tokens), model.encode_text(tokens))
    assert (tower.width, tower.feature_dim, tower.activation) == (8, EMBED_DIM, "gelu_new")
    for call in (lambda: tower.embed(tokens), lambda: tower.encode_embedded(tokens, tokens)):
        with pytest.raises(BackboneError, match=r"'open_clip/roberta-.*' is HuggingFaceTower"):
            call()


def test_text_tower__of_no_clip__refused():
    with pytest.raises(BackboneError, match="Linear is no CLIP"):
        TextTower(nn.Linear(2, 2), None)


@torch.no_grad()
def test_create_text_tower__bundled__text_part_of_the_open_clip_model():
    tower = create_text_tower(BUNDLED_CLIP)
    # PyTorch computes with frozen weights in another order, even where no gradient is asked for.
    model, tokenizer = (
        create_open_clip(BUNDLED_CLIP).requires_grad_(False),
        create_tokenizer(BUNDLED_CLIP),
    )
    tokens = tower.tokenize(TEXTS[:2])
    assert torch.equal(tower.encode(tokens), model.encode_text(tokens, normalize=False))
    assert torch.equal(tokens, tokenizer(TEXTS[:2], context_length=tower.context_length))
    assert tower.name == BUNDLED_CLIP
    assert sum(p.numel() for p in tower.parameters()) < sum(p.numel() for p in model.parameters())


@torch.no_grad()
def test_create_text_tower__weights_in_a_file__text_part_of_them(tmp_path):
    model, path = create_open_clip(BUNDLED_CLIP, pretrained=False), tmp_path / "clip.safetensors"
    save_file(model.state_dict(), path)
    tower = create_text_tower(BUNDLED_CLIP, weights=path)
    tokens = tower.tokenize(TEXTS)
    own = model.requires_grad_(False).encode_text(tokens, normalize=False)
    assert torch.equal(tower.encode(tokens), own)
    assert tower.sha256 != create_text_tower(BUNDLED_CLIP).sha256
    with pytest.raises(BackboneError, match="no such file"):
        create_text_tower(BUNDLED_CLIP, weights=tmp_path / "none.safetensors")
