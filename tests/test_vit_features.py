"""Vision transformers as backbones of segmenters: the tokens are the classifier's, and lie where cells of DeepLab lie."""

import pytest
import torch
from torch.nn import functional

from acr.models.attention import Keep
from acr.models.deeplab import build_deeplab
from acr.models.vit import VitClassifier, VitFeatures, is_transformer
from acr.models.weights import load_state, save_model


@pytest.mark.parametrize("backbone", ["vit_stem8_96", "deit_tiny_patch16_224"])
def test_the_tokens_are_the_classifiers(backbone, tmp_path):
    torch.manual_seed(0)
    classifier = VitClassifier(backbone, 3, "native").eval()
    classifier.network.head.weight.data.normal_()
    save_model(tmp_path, classifier, {})
    features = VitFeatures(backbone, classifier.patch, "native", {}).eval()
    load_state(features, tmp_path / "model.safetensors")
    side = classifier.patch
    image = torch.rand(1, 3, 3 * side + 1, 5 * side + 1)
    mean = classifier.normalise.mean
    padded = functional.pad(image - mean, (side // 2, side - side // 2 - 1) * 2) + mean
    expected = classifier(padded, Keep(class_maps=True)).kept_class_maps.unflatten(-1, (4, 6))
    found = torch.einsum("bdhw,cd->bchw", features(image)[0], classifier.network.head.weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.1


def test_a_cell_lies_around_its_pixel():
    """A spot at pixel (2 stride, 3 stride) changes the patch of cell (2, 3) before any other attends to it."""
    features = VitFeatures("deit_tiny_patch16_224", 16, "native", {}).eval()
    features.network.blocks = torch.nn.Sequential()
    features.network.pos_embed.data.zero_()
    image = torch.zeros(1, 3, 65, 81)
    for y, x in ((32, 48), (32 - 8, 48), (32 + 7, 48), (32, 48 - 8), (32, 48 + 7)):  # its patch, to the last rows and columns
        spot = image.clone()
        spot[..., y, x] = 1
        changed = (features(spot)[0] - features(image)[0]).abs().sum((0, 1))
        assert (changed > 1e-4).nonzero().tolist() == [[2, 3]]


def test_deeplab_over_a_transformer_has_the_grid_of_its_stride():
    description = {"backbone": "vit_stem8_96", "stride": 8, "normalisation": "native", "options": {}, "dilations": [1, 2]}
    model = build_deeplab({**description, "classes": ("cat", "dog")})
    assert model(torch.rand(2, 3, 48, 31)).shape == (2, 3, 7, 5)


def test_another_stride_than_the_patchs_and_options_are_refused():
    with pytest.raises(ValueError, match=r"^stride is 8, but patches of deit_tiny_patch16_224 have sides of 16 pixels; make"):
        VitFeatures("deit_tiny_patch16_224", 8, "native", {})
    with pytest.raises(
        ValueError, match=r"^options is {'width': 2}, but deit_tiny_patch16_224 is a transformer, which is built"
    ):
        VitFeatures("deit_tiny_patch16_224", 16, "native", {"width": 2})


def test_transformers_are_told_from_other_networks():
    names = ("deit_tiny_patch16_224", "vit_base_r50_s16_384", "vit_stem8_96", "resnet10t", "mobilenetv2_100", "resnet38")
    assert [name for name in names if is_transformer(name)] == ["deit_tiny_patch16_224", "vit_base_r50_s16_384", "vit_stem8_96"]
    with pytest.raises(ValueError, match=r"^backbone is 'resnet51', which timm does not know; did you mean 'resnet"):
        is_transformer("resnet51")
