"""Weights: fetched once by a rule of their own, which converts files of torch; read from safetensors only, loaded strictly."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from acr import config
from acr.files import atomic, write_json
from acr.models.features import check_name
from acr.models.torch_files import BEGINNINGS, read_torch_file
from acr.recipes import Weights

log = logging.getLogger(__name__)
NAMED = 3  # tensors that do not fit, in messages


def load_state(
    module: nn.Module, path: str | Path, optional: tuple[str, ...] = (), fit: Callable[[dict[str, Tensor]], dict] = dict
) -> None:
    """Loads a safetensors file into `module`; tensors whose names start with one of `optional` may be absent or differ.

    `fit` makes what the module needs of what the file holds. Tensors of the file that the module does not have (a
    classification head, as a rule) are named in the log.

    Raises:
        ValueError: the file is damaged or not safetensors, or names the first tensors that are missing or of another shape.
    """
    state, own = fit(_read(path)), module.state_dict()
    needed = [name for name in own if not name.startswith(optional or "\0") and not name.endswith("num_batches_tracked")]
    wrong = [fault for name in needed if (fault := _mismatch(name, state.get(name), own[name]))]
    if wrong:
        faults = ", ".join(wrong[:NAMED]) + (f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else "")
        raise ValueError(f"{path} does not fit the network ({faults}); give weights of the recipe's backbone and options")
    unused = [name for name in state if name not in own]
    if unused:
        log.info("%s: not used: %s", path, ", ".join(unused))
    fitting = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    module.load_state_dict({**own, **fitting})


def _mismatch(name: str, found: Tensor | None, expected: Tensor) -> str:
    """What is wrong with the tensor of a file, in words; nothing is when it has the expected shape."""
    if found is None:
        return f"{name} is missing"
    shapes = tuple(found.shape), tuple(expected.shape)
    return "" if shapes[0] == shapes[1] else f"{name} is {shapes[0]} instead of {shapes[1]}"


def load_weights(
    module: nn.Module,
    path: str | Path | None,
    optional: tuple[str, ...] = (),
    fit: Callable[[dict[str, Tensor]], dict] = dict,
) -> None:
    """Initialises a timm network from a file of timm's names; no path leaves it as it was built. See `load_state`."""
    if not path:
        log.info("no weights given: the network starts from random values")
    else:
        load_state(module, path, optional, fit)


def _read(path: str | Path) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ValueError(f"{path} is not there; name a file of weights saved as safetensors")
    try:
        return load_file(path)
    except SafetensorError as error:
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

    A local file is copied if it is one, and converted if torch.save wrote it, whatever its name; otherwise timm fetches
    the model from its hub, which needs a network.

    Raises:
        ValueError: the file is neither, the hub has no weights of that name, or it does not answer.
    """
    wanted = config.load(Weights, recipe)
    with atomic(weights) as temporary:
        if wanted.file is None:
            temporary.write_bytes(save(_from_hub(wanted.model)))
        elif _of_torch(wanted.file):
            temporary.write_bytes(save(read_torch_file(wanted.file)))
        else:
            _read(wanted.file)
            shutil.copyfile(wanted.file, temporary)


def _of_torch(path: str | Path) -> bool:
    """Whether a file begins as those of torch do; one of safetensors may, which are told by the header after its length."""
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as stream:
        begins = stream.read(9)
    return begins.startswith(BEGINNINGS) and not begins.endswith(b"{")


def _from_hub(model: str) -> dict[str, Tensor]:
    check_name(model, "weights.model")
    if not timm.is_model_pretrained(model):
        raise ValueError(f"weights.model is {model!r}, of which timm's hub has no weights; give a local `file` of them")
    try:
        network = timm.create_model(model, pretrained=True)
    except OSError as error:
        way_out = "connect this machine to the network, or give a local `file` of them"
        raise ValueError(f"weights.model is {model!r}, which could not be fetched from timm's hub; {way_out}") from error
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
