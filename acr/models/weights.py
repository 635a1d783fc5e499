"""Weights: fetched once by a rule of their own, read from safetensors only, loaded strictly."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from acr import config
from acr.files import atomic, write_json

log = logging.getLogger(__name__)


def load_state(module: nn.Module, path: str | Path, optional: tuple[str, ...] = ()) -> None:
    """Loads a safetensors file into `module`; tensors whose names start with one of `optional` may be absent or differ.

    Tensors of the file that the module does not have (a classification head, as a rule) are named in the log.

    Raises:
        ValueError: the file is damaged or not safetensors, or the first tensor that is missing or of another shape.
    """
    state, own = _read(path), module.state_dict()
    for name, tensor in own.items():
        if name.startswith(optional or "\0") or name.endswith("num_batches_tracked"):
            continue
        if name not in state:
            raise ValueError(f"{path} has no tensor {name!r}; these weights are of another architecture")
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)} where {tuple(tensor.shape)} was expected"
            raise ValueError(f"{path}: {name} is {shapes}; these weights are of another architecture")
    unused = [name for name in state if name not in own]
    if unused:
        log.info("%s: not used: %s", path, ", ".join(unused))
    fitting = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    module.load_state_dict({**own, **fitting})


def load_weights(module: nn.Module, path: str | Path | None, optional: tuple[str, ...] = ()) -> None:
    """Initialises a timm network from a file of timm's names; no path leaves it as it was built."""
    if not path:
        log.info("no weights given: the network starts from random values")
    else:
        load_state(module, path, optional)


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); give weights saved as safetensors") from None


def save_model(folder: str | Path, module: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes model.safetensors and model.json, which holds all that is needed to build the module again."""
    folder = Path(folder)
    with atomic(folder / "model.safetensors") as temporary:
        # through Python, whose errors tell a full disk from others
        temporary.write_bytes(save({name: tensor.contiguous().cpu() for name, tensor in module.state_dict().items()}))
    write_json(folder / "model.json", dict(description))


def fetch_weights(*, recipe: str, weights: str | Path) -> None:
    """Writes the safetensors file of a `weights` recipe.

    A local file is copied; otherwise timm fetches the model from its hub, which needs a network.
    """
    wanted = config.load(config.Weights, recipe)
    with atomic(weights) as temporary:
        if wanted.file is not None:
            _read(wanted.file)
            shutil.copyfile(wanted.file, temporary)
        else:
            temporary.write_bytes(save(_from_hub(wanted.model)))


def _from_hub(model: str) -> dict[str, Tensor]:
    if not timm.is_model(model):
        raise ValueError(f"weights.model is {model!r}, which timm does not know; see timm.list_pretrained()")
    try:
        network = timm.create_model(model, pretrained=True)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{model} could not be fetched from timm's hub ({reason}); give a local safetensors `file`") from None
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
