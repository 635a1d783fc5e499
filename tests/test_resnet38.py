"""PSA's ResNet38: names and shapes of the published file, and values against a forward pass written from the formulas."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from acr.models.affinity_net import build_affinity_net
from acr.models.deeplab import build_deeplab
from acr.models.features import FeatureBackbone, check_name, statistics
from acr.models.resnet38 import Block, Bottleneck, ResNet38
from acr.models.weights import fetch_weights, load_weights
from acr.recipes import Training
from acr.training import freeze_norm, freeze_stem, parameter_groups

# of each block of the published file: channels in, between and out, stride, dilation of the first and the second convolution
BLOCKS = {
    "b2": (64, 128, 128, 2, 1, 1),
    "b2_1": (128, 128, 128, 1, 1, 1),
    "b2_2": (128, 128, 128, 1, 1, 1),
    "b3": (128, 256, 256, 2, 1, 1),
    "b3_1": (256, 256, 256, 1, 1, 1),
    "b3_2": (256, 256, 256, 1, 1, 1),
    "b4": (256, 512, 512, 2, 1, 1),
    "b4_1": (512, 512, 512, 1, 1, 1),
    "b4_2": (512, 512, 512, 1, 1, 1),
    "b4_3": (512, 512, 512, 1, 1, 1),
    "b4_4": (512, 512, 512, 1, 1, 1),
    "b4_5": (512, 512, 512, 1, 1, 1),
    "b5": (512, 512, 1024, 1, 1, 2),
    "b5_1": (1024, 512, 1024, 1, 2, 2),
    "b5_2": (1024, 512, 1024, 1, 2, 2),
}
CHANGED = ("b2", "b3", "b4", "b5")  # whose shortcut is a convolution
NORM = ("weight", "bias", "running_mean", "running_var")
DESCRIPTION = {"method": "psa", "backbone": "resnet38", "stride": 8, "normalisation": "native", "options": {}}


def published() -> dict[str, tuple[int, ...]]:
    """Shapes by the names of res38_cls.pth, but for its head."""

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{part}": (channels,) for part in NORM}

    shapes = {"conv1a.weight": (64, 3, 3, 3)}
    for name, (inputs, inner, outputs, *_) in BLOCKS.items():
        shapes |= norm(f"{name}.bn_branch2a", inputs) | {f"{name}.conv_branch2a.weight": (inner, inputs, 3, 3)}
        shapes |= norm(f"{name}.bn_branch2b1", inner) | {f"{name}.conv_branch2b1.weight": (outputs, inner, 3, 3)}
        if name in CHANGED:
            shapes[f"{name}.conv_branch1.weight"] = (outputs, inputs, 1, 1)
    for name, inputs, first, second, outputs in (("b6", 1024, 512, 1024, 2048), ("b7", 2048, 1024, 2048, 4096)):
        shapes |= norm(f"{name}.bn_branch2a", inputs) | {f"{name}.conv_branch2a.weight": (first, inputs, 1, 1)}
        shapes |= norm(f"{name}.bn_branch2b1", first) | {f"{name}.conv_branch2b1.weight": (second, first, 3, 3)}
        shapes |= norm(f"{name}.bn_branch2b2", second) | {f"{name}.conv_branch2b2.weight": (outputs, second, 1, 1)}
        shapes[f"{name}.conv_branch1.weight"] = (outputs, inputs, 1, 1)
    return shapes | norm("bn7", 4096)


@pytest.fixture(scope="module")
def network() -> Iterator[ResNet38]:
    """With moments and scales of batch norms that are no identity."""
    torch.manual_seed(0)
    network = timm.create_model("resnet38", features_only=True, output_stride=8)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                shape = layer.weight.shape
                layer.weight.copy_(torch.rand(shape) + 0.5)
                layer.bias.copy_(torch.randn(shape) / 4)
                layer.running_mean.copy_(torch.randn(shape) / 4)
                layer.running_var.copy_(torch.rand(shape) + 0.5)
    return network.eval()


def test_names_and_shapes_are_those_of_the_published_file() -> None:
    with torch.device("meta"):
        state = ResNet38().state_dict()
    shapes = {name: tuple(item.shape) for name, item in state.items() if not name.endswith("num_batches_tracked")}
    assert shapes == published()


def test_there_are_as_many_parameters_as_the_formulas_say() -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in ResNet38().parameters())
    # stem, b2 to b5, b6, b7, and two a channel of each batch norm
    convolutions = 3 * 64 * 9
    convolutions += (64 * 128 + 5 * 128 * 128) * 9 + 64 * 128
    convolutions += (128 * 256 + 5 * 256 * 256) * 9 + 128 * 256
    convolutions += (256 * 512 + 11 * 512 * 512) * 9 + 256 * 512
    convolutions += (512 * 512 + 5 * 512 * 1024) * 9 + 512 * 1024
    convolutions += 1024 * 512 + 512 * 1024 * 9 + 1024 * 2048 + 1024 * 2048
    convolutions += 2048 * 1024 + 1024 * 2048 * 9 + 2048 * 4096 + 2048 * 4096
    norms = 64 + 5 * 128 + 128 + 5 * 256 + 256 + 11 * 512 + 512 + 2 * 1024 + 3 * 512 + 2 * 1024 + 512 + 2 * 2048 + 1024 + 4096
    assert count == convolutions + 2 * norms == 105_070_912


def activated(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    weight, bias, mean, variance = (state[f"{name}.{part}"][:, None, None] for part in NORM)
    return ((values - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)


def block(state: dict[str, Tensor], name: str, values: Tensor, stride: int, first: int, second: int) -> Tensor:
    active = activated(state, f"{name}.bn_branch2a", values)
    shortcut = functional.conv2d(active, state[f"{name}.conv_branch1.weight"], stride=stride) if name in CHANGED else values
    inner = functional.conv2d(active, state[f"{name}.conv_branch2a.weight"], None, stride, first, first)
    inner = activated(state, f"{name}.bn_branch2b1", inner)
    return shortcut + functional.conv2d(inner, state[f"{name}.conv_branch2b1.weight"], None, 1, second, second)


def bottleneck(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    active = activated(state, f"{name}.bn_branch2a", values)
    inner = functional.conv2d(active, state[f"{name}.conv_branch2a.weight"])
    inner = activated(state, f"{name}.bn_branch2b1", inner)
    inner = functional.conv2d(inner, state[f"{name}.conv_branch2b1.weight"], padding=4, dilation=4)
    inner = activated(state, f"{name}.bn_branch2b2", inner)
    branch = functional.conv2d(inner, state[f"{name}.conv_branch2b2.weight"])
    return functional.conv2d(active, state[f"{name}.conv_branch1.weight"]) + branch


@torch.inference_mode()
def test_the_levels_are_those_of_the_formulas(network: ResNet38) -> None:
    state, images = network.state_dict(), torch.randn(1, 3, 40, 48)
    values = functional.conv2d(images, state["conv1a.weight"], padding=1)
    expected = []
    for name, (*_, stride, first, second) in BLOCKS.items():
        if name == "b5":
            expected.append(activated(state, "b5.bn_branch2a", values))
        values = block(state, name, values, stride, first, second)
    expected.append(activated(state, "b6.bn_branch2a", values))
    values = bottleneck(state, "b7", bottleneck(state, "b6", values))
    expected.append(activated(state, "bn7", values))
    for level, by_hand in zip(network(images), expected, strict=True):
        assert level.std() > 0.01
        torch.testing.assert_close(level, by_hand, rtol=1e-3, atol=1e-3 * float(by_hand.abs().max()))


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 24), (33, 41)])
def test_there_is_one_cell_for_every_eight_pixels_begun(network: ResNet38, height: int, width: int) -> None:
    shapes = [tuple(level.shape) for level in network(torch.zeros(2, 3, height, width))]
    assert shapes == [(2, channels, -(-height // 8), -(-width // 8)) for channels in (512, 1024, 4096)]
    assert network.feature_info.channels() == [512, 1024, 4096]


def test_a_cell_lies_over_the_pixel_at_eight_times_its_place() -> None:
    """As `acr.models.deeplab` needs: the strided convolutions alone, with ones as weights, of one lit pixel."""
    torch.manual_seed(0)
    stack = nn.Sequential(*(nn.Conv2d(1, 1, 3, layer.conv_branch2a.stride, 1, bias=False) for layer in strided()))
    for layer in stack:
        nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 65, 65)
    image[..., 24, 40] = 1
    assert torch.nonzero(stack(image)[0, 0]).tolist() == [[3, 5]]


def strided() -> list[Block]:
    with torch.device("meta"):
        return [layer for layer in ResNet38().children() if isinstance(layer, Block) and layer.conv_branch2a.stride != (1, 1)]


def test_whole_maps_drop_out_of_bottlenecks_in_training_alone() -> None:
    torch.manual_seed(0)
    layer, seen = Bottleneck(8, 16, dilation=4, dropout=0.5), []
    layer.conv_branch2b1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(4, 8, 6, 6)
    layer.train()(images)
    layer.eval()(images)
    dropped, kept = ((maps == 0).flatten(2).all(2).float().mean() for maps in seen)
    assert 0.3 < dropped < 0.7
    assert kept == 0
    with torch.device("meta"):
        assert [getattr(ResNet38(), name).dropout.p for name in ("b6", "b7")] == [0.3, 0.5]


@pytest.mark.parametrize("stride", [4, 16, 32])
def test_another_stride_is_one_sentence(stride: int) -> None:
    with pytest.raises(ValueError, match=f"^stride is {stride}, but resnet38 has one cell every 8 pixels; set stride to 8$"):
        FeatureBackbone("resnet38", stride, "native", {})


def test_it_has_a_name_like_any_other() -> None:
    check_name("resnet38", "backbone")
    assert statistics("resnet38", "native") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(ValueError, match=r"^backbone is 'resnet83', which timm does not know; did you mean 'resnet38'\?$"):
        check_name("resnet83", "backbone")
    with pytest.raises(TypeError, match="unexpected keyword argument 'pad_type'"):
        FeatureBackbone("resnet38", 8, "native", {"pad_type": "same"})


def test_the_published_file_starts_the_affinity_network_whose_stem_stays(
    network: ResNet38, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {name: item for name, item in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({**state, "fc8.weight": torch.ones(20, 4096, 1, 1)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    recipe = f'{{"model": "resnet38", "file": "{tmp_path / "a.pth"}"}}'
    fetch_weights(recipe=recipe, weights=tmp_path / "a.safetensors")
    model = build_affinity_net(DESCRIPTION)
    with caplog.at_level("INFO"):
        load_weights(model.backbone.network, tmp_path / "a.safetensors")
    assert "not used: fc8.weight" in caplog.text
    assert [layer.out_channels for layer in model.head.reduce] == [64, 128, 256]
    freeze_stem(model.backbone.network)
    freeze_norm(model)
    model.train()
    features = model(torch.rand(1, 3, 33, 40))
    assert features.shape == (1, 448, 5, 5)
    features.square().sum().backward()
    learnt = {name for name, item in model.backbone.network.named_parameters() if item.grad is not None}
    stem = ("conv1a.", "b2.", "b2_1.", "b2_2.")
    assert learnt == {name for name in published() if "conv" in name and not name.startswith(stem)}
    groups = {id(item) for group in parameter_groups(model, Training()) for item in group["params"]}
    assert groups == {id(item) for item in model.parameters() if item.grad is not None}
    after = model.backbone.network.state_dict()
    assert all(torch.equal(after[name], item) for name, item in state.items())


def test_a_frozen_stem_keeps_the_moments_of_its_norms_where_others_learn() -> None:
    class Tiny(nn.Module):
        frozen = ("first",)

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    tiny = Tiny()
    freeze_stem(tiny)
    tiny.train()
    tiny.second(tiny.first(torch.rand(3, 2, 4, 4)))
    assert tiny.first.running_mean.tolist() == [0, 0]
    assert tiny.second.running_mean.abs().min() > 0
    assert [item.requires_grad for item in tiny.parameters()] == [False, False, True, True]
    freeze_stem(tiny.second)  # names nothing
    assert tiny.second.training


def test_the_segmenter_reads_the_last_level(network: ResNet38, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    model = build_deeplab({**DESCRIPTION, "classes": ["cat", "dog"], "dilations": [1, 2]}).eval()
    load_weights(model.backbone.network, tmp_path / "a.safetensors")
    images = torch.rand(1, 3, 33, 41)
    with torch.inference_mode():
        logits = model(images)
        expected = model.head(network(model.backbone.normalise(images))[-1])
    assert logits.shape == (1, 3, 5, 6)
    torch.testing.assert_close(logits, expected)
