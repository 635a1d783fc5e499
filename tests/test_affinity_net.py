import math

import pytest
import torch
from torch import nn

from acr.models.affinity_net import AffinityHead, AffinityNet, BoundaryHead, build_affinity_net
from acr.recipes import Training
from acr.training import freeze_norm, parameter_groups

DESCRIPTION = {"backbone": "resnet10t", "stride": 8, "normalisation": "half", "options": {}, "radius": 5}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_affinity_net(DESCRIPTION | {"method": "psa"}).eval()


@pytest.mark.parametrize("height", [96, 97, 40])
@pytest.mark.parametrize("width", [63, 64, 65])
def test_there_is_one_cell_for_every_stride_begun(network, height, width):
    features = network(torch.rand(2, 3, height, width))
    assert features.shape[0] == 2
    assert features.shape[2:] == (math.ceil(height / 8), math.ceil(width / 8))
    assert features.min() > -1  # ELU
    assert features.isfinite().all()


def test_levels_are_reduced_to_psa_widths_and_never_widened():
    head = AffinityHead((512, 1024, 4096))
    assert [layer.out_channels for layer in head.reduce] == [64, 128, 256]
    assert head.mix.in_channels == head.mix.out_channels == 448
    assert [layer.out_channels for layer in AffinityHead((32, 96, 320)).reduce] == [32, 96, 256]
    assert [layer.out_channels for layer in AffinityHead((512, 1024)).reduce] == [128, 256]


def test_the_head_is_three_convolutions_and_elus_without_bias():
    torch.manual_seed(0)
    head = AffinityHead((4, 5, 6))
    assert all(parameter.ndim == 4 for parameter in head.parameters())
    levels = [torch.randn(1, count, 3, 2) for count in (4, 5, 6)]
    parts = [
        nn.functional.elu(torch.einsum("oi,bihw->bohw", layer.weight[..., 0, 0], level))
        for layer, level in zip(head.reduce, levels, strict=True)
    ]
    expected = nn.functional.elu(torch.einsum("oi,bihw->bohw", head.mix.weight[..., 0, 0], torch.cat(parts, 1)))
    torch.testing.assert_close(head(levels, 3, 2), expected)


def test_the_head_resizes_levels_of_other_sizes():
    head = AffinityHead((4, 5, 6))
    constant = [torch.ones(1, count, side, side) for count, side in ((4, 8), (5, 4), (6, 2))]
    features = head(constant, 4, 4)
    assert features.shape[2:] == (4, 4)
    torch.testing.assert_close(features, features[..., :1, :1].expand_as(features))


def test_a_boundary_is_one_number_in_0_to_1_of_all_levels():
    torch.manual_seed(0)
    network = build_affinity_net(DESCRIPTION | {"method": "irn"}).eval()
    boundaries = network(torch.rand(2, 3, 41, 64))
    assert boundaries.shape == (2, 1, 6, 8)
    assert 0 <= boundaries.min() < boundaries.max() <= 1
    assert len(network.head.reduce) == len(network.backbone.channels) > 3


def test_the_boundary_head_by_hand():
    torch.manual_seed(0)
    head = BoundaryHead((4, 5))
    levels = [torch.randn(1, count, 3, 2) for count in (4, 5)]
    parts = []
    for reduce, level in zip(head.reduce, levels, strict=True):
        groups = torch.einsum("oi,bihw->bohw", reduce[0].weight[..., 0, 0], level).reshape(4, 8 * 6)
        normed = (groups - groups.mean(1, keepdim=True)) / (groups.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        parts.append(normed.reshape(1, 32, 3, 2).clamp(min=0))
    mixed = torch.einsum("oi,bihw->bohw", head.mix.weight[..., 0, 0], torch.cat(parts, 1)) + head.mix.bias
    torch.testing.assert_close(head(levels, 3, 2), 1 / (1 + torch.exp(-mixed)))


def test_the_head_learns_faster_and_frozen_norms_do_not(network):
    network = AffinityNet("resnet10t", 8, "native", {})
    freeze_norm(network)
    network.train()
    groups = {group["factor"]: group["params"] for group in parameter_groups(network, Training(head_factor=10.0))}
    assert {id(item) for item in groups[10.0]} == {id(item) for item in network.head.parameters()}
    assert not any(layer.training for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
    assert all(parameter.ndim == 4 for parameter in groups[1.0])


def test_statistics_travel_with_the_network(network):
    assert network.state_dict()["backbone.normalise.mean"].flatten().tolist() == [0.5] * 3
