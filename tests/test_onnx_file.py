"""What is exported is the network itself: for backbones of "same" padding, of even kernels, and as onnxruntime runs it."""

import sys

import numpy as np
import onnxruntime
import pytest
import torch
from timm.layers import Conv2dSame

from acr.models.deeplab import DeepLabV2, build_deeplab, upsample
from acr.models.onnx_file import AtPixels, with_fixed_padding, write_onnx

BACKBONES = {"mobilenetv2_100": {"pad_type": "same"}, "convnext_atto": {}}  # the grid of the second is not that of its cells
SIZES = [(33, 49), (64, 96), (65, 50), (161, 120)]


def network(backbone: str) -> DeepLabV2:
    """A segmenter with random weights, too unsure to make much of rounding."""
    torch.manual_seed(0)
    described = {"backbone": backbone, "stride": 16, "normalisation": "native", "options": BACKBONES[backbone]}
    built = build_deeplab({**described, "classes": ["cat", "dog"], "dilations": [6, 12]}).requires_grad_(False).eval()
    for layer in built.head:
        torch.nn.init.normal_(layer.weight, std=0.005)
    return built


def image(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(height).random((1, 3, height, width), np.float32))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_fixed_padding_is_that_of_padded_images(backbone: str) -> None:
    own = network(backbone).double()
    fixed = with_fixed_padding(own)
    assert any(isinstance(layer, Conv2dSame) for layer in own.modules())
    assert not any(isinstance(layer, Conv2dSame) for layer in fixed.modules())
    for size in SIZES:
        padded = own.pad(image(*size).double())
        torch.testing.assert_close(fixed.backbone(padded)[-1], own.backbone(padded)[-1], rtol=1e-9, atol=1e-9)
        pixels = AtPixels(fixed)(padded)[..., : size[0], : size[1]]
        expected = upsample(own(image(*size).double()), *size, stride=16).softmax(1)
        torch.testing.assert_close(pixels, expected, rtol=1e-9, atol=1e-9)


def test_fixed_padding_is_not_that_of_other_images() -> None:
    own = network("mobilenetv2_100")
    images = image(64, 96)
    assert (with_fixed_padding(own).backbone(images)[-1] - own.backbone(images)[-1]).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_onnxruntime_computes_what_torch_computes(backbone: str, tmp_path) -> None:
    own = network(backbone)
    write_onnx(own, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [each.name for each in (*session.get_inputs(), *session.get_outputs())] == ["image", "probabilities"]
    for size in SIZES:
        (found,) = session.run(None, {"image": own.pad(image(*size)).numpy()})
        expected = upsample(own(image(*size)), *size, stride=16).softmax(1).numpy()
        np.testing.assert_allclose(found[..., : size[0], : size[1]], expected, rtol=0, atol=1e-5)
        assert np.ptp(expected, axis=(2, 3)).max() > 0.01


@pytest.mark.parametrize(("names", "said"), [(["onnxscript"], "onnxscript"), (["onnx", "onnxscript"], "onnx and onnxscript")])
def test_without_what_it_needs_an_export_is_one_sentence(names: list[str], said: str, tmp_path, monkeypatch) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    sentence = f"^{said} cannot be imported, which an export to ONNX needs; pip install '.\\[onnx\\]'$"
    with pytest.raises(ValueError, match=sentence):
        write_onnx(network("mobilenetv2_100"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
