"""MCTformer: what one token a class changes, and what it leaves as it was."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from acr.consistency import view_consistency
from acr.localisation import asked, class_attention_maps, gradient_maps
from acr.models.attention import Keep
from acr.models.mctformer import MctFormer
from acr.models.trace import activation
from acr.models.vit import VitClassifier
from acr.models.weights import load_weights
from acr.shapes import Grid
from acr.views import HFLIP, IDENTITY

CLASSES = 3


@pytest.fixture(scope="module")
def model() -> MctFormer:
    torch.manual_seed(0)
    return MctFormer("vit_stem8_96", CLASSES, "native").double().eval()


def test_a_trace_has_one_token_a_class_and_trained_class_maps(model: MctFormer) -> None:
    trace = model(torch.rand(2, 3, 32, 48, dtype=torch.float64), Keep(class_maps=True))
    assert (trace.grid, trace.special, trace.class_tokens) == (Grid(4, 6), CLASSES, CLASSES)
    assert trace.attentions[0].shape[-1] == CLASSES + 24
    assert trace.heads[0] is trace.logits
    assert torch.equal(trace.heads[1], trace.class_maps.mean(-1))


def test_logits_are_the_means_of_class_tokens_and_maps_a_convolution(model: MctFormer) -> None:
    tokens = torch.arange(2.0 * (CLASSES + 6) * 64, dtype=torch.float64).view(2, CLASSES + 6, 64) / 1000
    logits, maps = model.logits(tokens[:, :CLASSES]), model.class_maps(tokens[:, CLASSES:], Grid(2, 3))
    assert torch.allclose(logits, tokens[:, :CLASSES].mean(-1))
    # the cell of the first row and second column, from its 3x3 neighbourhood, outside which there is nothing
    weight, bias = model.network.head.weight, model.network.head.bias
    by_hand = bias.clone().expand(2, -1).clone()
    for row in (0, 1):
        for column in (0, 1, 2):
            by_hand += tokens[:, CLASSES + 3 * row + column] @ weight[:, :, row + 1, column].T
    assert torch.allclose(maps[:, :, 1], by_hand)


def test_pretrained_tokens_are_repeated(tmp_path) -> None:
    torch.manual_seed(1)
    plain = VitClassifier("vit_stem8_96", 7, "native")
    with torch.no_grad():
        plain.network.cls_token.normal_()
        plain.network.pos_embed.normal_()
    save_file(plain.network.state_dict(), tmp_path / "plain.safetensors")
    wide = MctFormer("vit_stem8_96", CLASSES, "native")
    load_weights(wide.network, tmp_path / "plain.safetensors", optional=("head",), fit=wide.fitted)
    for token in range(CLASSES):
        assert torch.equal(wide.network.cls_token[:, token], plain.network.cls_token[:, 0])
        assert torch.equal(wide.network.pos_embed[:, token], plain.network.pos_embed[:, 0])
    assert torch.equal(wide.network.pos_embed[:, CLASSES:], plain.network.pos_embed[:, 1:])


def test_with_one_class_the_tokens_of_a_vit_go_through_unchanged() -> None:
    torch.manual_seed(2)
    plain = VitClassifier("vit_stem8_96", 1, "native").eval()
    one = MctFormer("vit_stem8_96", 1, "native").eval()
    state = {name: value for name, value in plain.network.state_dict().items() if not name.startswith("head")}
    one.network.load_state_dict({**one.network.state_dict(), **one.fitted(state)})
    images = torch.rand(1, 3, 32, 32)
    for own, other in zip(one(images).attentions, plain(images).attentions, strict=True):
        assert torch.equal(own, other)


def test_activation_is_the_mean_of_the_class_tokens_rows() -> None:
    attention = torch.tensor([[0.1, 0.1, 0.2, 0.6], [0.3, 0.1, 0.4, 0.2], [0.0] * 4, [0.0] * 4])
    assert torch.allclose(activation(attention, 2, 2), torch.tensor([0.3, 0.4]))
    assert torch.allclose(activation(attention, 2), torch.tensor([0.2, 0.6]))


def test_the_mean_row_of_a_view_comes_back_and_class_tokens_stay(model: MctFormer) -> None:
    trace = model(torch.rand(2, 3, 32, 48, dtype=torch.float64))
    mirrored = replace(trace, attentions=tuple(_mirrored(attention) for attention in trace.attentions))
    same, wrong = (view_consistency(trace, mirrored, view) for view in (HFLIP, IDENTITY))
    assert (same.activation, same.affinity) == (0, 0)
    assert wrong.activation > 0
    assert wrong.affinity > 0


def _mirrored(attention: torch.Tensor) -> torch.Tensor:
    """Attention of 4 x 6 patches behind the class tokens, as that of the mirrored image would be."""
    order = [*range(CLASSES), *(CLASSES + 6 * row + 5 - column for row in range(4) for column in range(6))]
    return attention[..., order, :][..., order]


def test_the_maps_of_a_class_are_read_from_its_own_token(model: MctFormer) -> None:
    trace = model(torch.rand(1, 3, 32, 32, dtype=torch.float64), Keep(layers=2, class_maps=True))
    maps = class_attention_maps(trace, asked([(2,)]), 2)[0, 0]
    row = torch.stack([rows[0, :, 2, CLASSES:] for rows in trace.rows]).mean((0, 1))
    assert torch.allclose(maps, row * trace.class_maps[0, 2].clamp(min=0))
    gradients = torch.autograd.grad(trace.logits[0, 1], trace.rows[-1:], retain_graph=True)[0]
    assert torch.allclose(gradient_maps(trace, asked([(1,)]), 1)[0, 0], gradients[0, :, 1, CLASSES:].clamp(min=0).mean(0))


def test_a_backbone_with_more_special_tokens_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^backbone is 'deit_tiny_distilled_patch16_224', whose class token cannot be repeated"
    ):
        MctFormer("deit_tiny_distilled_patch16_224", CLASSES, "native")
