import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from acr.models.deeplab import Aspp, build_deeplab, labels_at, logits_at_scales, maximum, padded_side, upsample
from acr.models.weights import load_state, save_model

DESCRIPTION = {
    "backbone": "resnet10t",
    "options": {"channels": [4, 6, 8, 10], "stem_width": 4, "avg_down": False},
    "stride": 8,
    "normalisation": "imagenet",
    "dilations": [1, 2],
    "classes": ["cat", "dog"],
}
MOBILENET = {**DESCRIPTION, "backbone": "mobilenetv2_035", "options": {"pad_type": "same"}}


def small(description=DESCRIPTION):
    torch.manual_seed(0)
    return build_deeplab(description).eval()


def test_the_head_is_the_sum_of_its_dilated_convolutions():
    torch.manual_seed(0)
    head, features = Aspp(3, 2, (1, 3)), torch.rand(1, 3, 9, 9)
    for layer in head:
        torch.nn.init.normal_(layer.bias)
    # by hand at the centre: nine taps, `dilation` cells apart, of each convolution, and both biases
    centre = sum(
        (layer.weight * features[0, :, 4 - gap : 5 + gap : gap, 4 - gap : 5 + gap : gap]).sum((1, 2, 3)) + layer.bias
        for gap, layer in zip((1, 3), head, strict=True)
    )
    assert torch.allclose(head(features)[0, :, 4, 4], centre, atol=1e-6)
    assert head(features).shape == (1, 2, 9, 9)


def test_the_head_starts_small():
    head = Aspp(256, 20, (6, 12))
    for layer in head:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert (layer.bias == 0).all()


def test_the_parameters_of_the_head_are_named_head():
    names = [name for name, _ in small().named_parameters() if "head" in name.split(".")]
    assert names == ["head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"]


@given(side=st.integers(1, 2000), stride=st.sampled_from([4, 8, 16, 32]))
def test_a_padded_side_is_the_next_that_a_grid_fits(side, stride):
    padded = padded_side(side, stride)
    assert padded >= side
    assert padded - side < stride
    assert padded % stride == 1


@pytest.mark.parametrize("description", [DESCRIPTION, MOBILENET], ids=["resnet", "mobilenet"])
@pytest.mark.parametrize(("height", "width"), [(33, 57), (40, 50), (1, 8), (34, 9)])
def test_logits_lie_at_every_eighth_pixel(description, height, width):
    logits = small(description)(torch.rand(1, 3, height, width))
    assert logits.shape == (1, 3, -(-(height - 1) // 8) + 1, -(-(width - 1) // 8) + 1)


@pytest.mark.parametrize("description", [DESCRIPTION, MOBILENET], ids=["resnet", "mobilenet"])
def test_a_logit_sees_its_own_pixel_most(description):
    """The gradient of a logit with respect to the image is, on average, centred on pixel (i stride, j stride).

    Networks that shrink their shortcuts by averages of 2 x 2 (`avg_down`) are not centred where these are dilated.
    """
    model = small({**description, "dilations": [1]})
    centres = []
    for state in range(12):
        torch.manual_seed(state)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        images = torch.rand(1, 3, 129, 129, requires_grad=True)
        (gradient,) = torch.autograd.grad(model(images)[0, 0, 8, 8], images)
        mass = gradient.square().sum((0, 1))
        places = torch.arange(129.0)
        centres.append([(mass.sum(1) * places).sum() / mass.sum(), (mass.sum(0) * places).sum() / mass.sum()])
    assert np.mean(centres, axis=0) == pytest.approx([64, 64], abs=2.5)


def test_padding_is_zero_after_normalisation_and_leaves_the_image():
    model, images = small(), torch.rand(2, 3, 10, 17)
    padded = model.pad(images)
    assert padded.shape == (2, 3, 17, 17)
    assert torch.allclose(padded[..., :10, :17], images, atol=1e-6)
    assert torch.allclose(model.backbone.normalise(padded)[..., 10:, :], torch.zeros(()), atol=1e-6)


def test_scale_one_is_the_model_itself():
    model, images = small(), torch.rand(1, 3, 41, 49)
    half, whole = logits_at_scales(model, images, (0.5, 1.0))
    assert torch.equal(whole, model(images))
    assert whole.shape[-2:] == (6, 7)
    assert half.shape[-2:] == (1 + round(5 / 2), 1 + 3)


def test_a_plain_image_looks_the_same_at_every_scale():
    model = small({**DESCRIPTION, "dilations": [1]})
    mean = model.backbone.normalise.mean  # zeros inside: borders and padding are like the rest
    logits = logits_at_scales(model, mean.expand(1, 3, 81, 81), (0.5, 1.0, 1.5))
    for each in logits:
        assert torch.allclose(each, logits[0][..., :1, :1], atol=1e-5)


def test_the_maximum_is_taken_on_the_largest_grid():
    small_grid = torch.tensor([[[[0.0, 4.0]]]])
    large_grid = torch.tensor([[[[1.0, 1.0, 5.0]]]])
    assert maximum([small_grid, large_grid]).tolist() == [[[[1.0, 2.0, 5.0]]]]
    assert maximum([large_grid, small_grid]).tolist() == [[[[1.0, 2.0, 5.0]]]]


def test_upsampled_logits_pass_through_the_cells():
    torch.manual_seed(0)
    logits = torch.rand(1, 2, 4, 6)
    whole = upsample(logits, 25, 41, 8)
    assert torch.allclose(whole[..., ::8, ::8], logits, atol=1e-6)
    assert torch.allclose(whole[..., 4, 0], (logits[..., 0, 0] + logits[..., 1, 0]) / 2, atol=1e-6)
    assert torch.equal(upsample(logits, 20, 35, 8), whole[..., :20, :35])


def test_upsampling_reaches_the_image_from_a_grid_of_another_scale():
    logits = torch.linspace(0, 1, 9).expand(1, 1, 9, 9)  # a ramp over columns, at scale 2 of 33 x 33 pixels
    assert torch.allclose(upsample(logits, 33, 33, 8)[0, 0, 0], torch.linspace(0, 1, 33), atol=1e-6)


def test_the_label_of_a_cell_is_its_pixels():
    labels = torch.randint(0, 21, (2, 20, 33), dtype=torch.uint8)
    cells = labels_at(labels, 4, 5, 8)
    assert torch.equal(cells[:, :3], labels[:, :17:8, ::8])
    assert (cells[:, 3] == 255).all()  # row 24 is padding


def test_the_label_at_another_scale_is_the_nearest_pixels():
    labels = torch.arange(17, dtype=torch.uint8).expand(1, 17, 17)
    assert labels_at(labels, 2, 2, 8).tolist() == [[[0, 16], [0, 16]]]
    assert labels_at(labels, 1, 5, 8).tolist() == [[[0, 4, 8, 12, 16]]]


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 40), width=st.integers(1, 40), cells=st.integers(1, 6))
def test_no_label_is_invented(height, width, cells):
    labels = torch.randint(0, 5, (1, height, width), dtype=torch.uint8)
    found = set(labels_at(labels, cells, cells, 8).flatten().tolist())
    assert found <= set(labels.flatten().tolist()) | {255}


def test_the_model_is_rebuilt_from_its_description(tmp_path):
    model, images = small(), torch.rand(1, 3, 25, 25)
    save_model(tmp_path, model, DESCRIPTION)
    again = build_deeplab(json.loads((tmp_path / "model.json").read_text()))
    load_state(again, tmp_path / "model.safetensors")
    assert torch.equal(again.eval()(images), model(images))
    assert "head.1.bias" in load_file(tmp_path / "model.safetensors")
