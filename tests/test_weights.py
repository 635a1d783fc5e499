"""Weights are read from safetensors and from nothing else, whatever a file's first bytes look like."""

from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from acr.models.weights import load_state, save_model


def begins_like_a_pickle(tensors: dict[str, torch.Tensor]) -> bytes:
    """A safetensors file of which the length of the header begins with the byte that a pickle begins with."""
    contents = (save(tensors, {"note": "x" * length}) for length in range(256))
    return next(content for content in contents if content[0] == 0x80)


def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path: Path) -> None:
    weights, target = nn.Linear(2, 3), nn.Linear(2, 3)
    (tmp_path / "net.safetensors").write_bytes(begins_like_a_pickle(weights.state_dict()))
    load_state(target, tmp_path / "net.safetensors")
    assert torch.equal(target.weight, weights.weight)
    assert torch.equal(target.bias, weights.bias)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    weights, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    weights(torch.randn(8, 3))
    save_model(tmp_path, weights, {"classes": ["cat"]})
    load_state(target, tmp_path / "model.safetensors")
    assert torch.equal(target.running_mean, weights.running_mean)
    assert (tmp_path / "model.json").read_text() == '{\n "classes": [\n  "cat"\n ]\n}\n'
