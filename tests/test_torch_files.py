"""Files of torch.save against torch's own reader, and hostile ones, which must neither run nor reach outside the file."""

import io
import os
import pickle
import re
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from acr.config import canonical
from acr.models.torch_files import MAGIC, PROTOCOL, TYPES, read_torch_file
from acr.models.weights import fetch_weights
from acr.recipes import Weights

ARCHIVE = [True, False]  # the newer format and the older one
DAMAGED = "is cut short, or not what torch.save writes of a state dict; get it again, or give weights saved as safetensors"


def saved(path: Path, content: Any, archive: bool, protocol: int = 2) -> Path:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=archive)
    return path


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether names in their order, types, shapes and values are the same, and nothing shares memory."""
    assert len({tensor.data_ptr() for tensor in found.values() if tensor.numel()}) == sum(t.numel() > 0 for t in found.values())
    assert all(tensor.is_contiguous() for tensor in found.values())
    alike = [a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True)]
    return list(found) == list(expected) and all(alike)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_torch_file(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.removeprefix(str(path)).strip()


def sample() -> dict[str, Tensor]:
    rows = torch.arange(12.0).reshape(3, 4)
    return {
        "whole": rows,
        "column": rows[:, 1],
        "turned": rows.t(),
        "every other": rows[1:, ::2],
        "same": rows,
        "repeated": torch.tensor([[3.0]]).expand(5, 7),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "empty part": rows[3:],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("archive", ARCHIVE)
def test_views_of_one_storage_are_what_torch_reads(tmp_path: Path, archive: bool, protocol: int) -> None:
    path = saved(tmp_path / "a.pth", sample(), archive, protocol)
    assert equal(read_torch_file(path), torch.load(path, weights_only=False))


@pytest.mark.parametrize("kind", TYPES.values(), ids=str)
@pytest.mark.parametrize("archive", ARCHIVE)
def test_every_type_is_read(tmp_path: Path, archive: bool, kind: torch.dtype) -> None:
    values = {"a": torch.tensor([[0, 1], [-3, 100]]).to(kind), "b": torch.tensor(1).to(kind)}
    assert equal(read_torch_file(saved(tmp_path / "a.pth", values, archive)), values)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sides=st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=1, max_size=4),
    kind=st.sampled_from(list(TYPES.values())),
    archive=st.booleans(),
    random=st.randoms(use_true_random=False),
)
def test_every_shape_and_order_of_axes_is_read(tmp_path: Path, sides, kind, archive, random) -> None:
    values = {}
    for number, shape in enumerate(sides):
        axes = random.sample(range(len(shape)), len(shape))
        values[str(number)] = (
            (torch.rand(shape) * 100).to(kind).permute(axes)[..., : random.randint(0, 4)]
            if shape
            else (torch.tensor(3).to(kind))
        )
    assert equal(read_torch_file(saved(tmp_path / "a.pth", values, archive)), values)


@pytest.mark.parametrize("archive", ARCHIVE)
def test_the_state_of_a_network_is_read(tmp_path: Path, archive: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = network.state_dict()  # an OrderedDict with attributes
    assert equal(read_torch_file(saved(tmp_path / "a.pth", state, archive)), dict(state))
    parameters = dict(network.named_parameters())
    assert equal(read_torch_file(saved(tmp_path / "b.pth", parameters, archive)), parameters)


@pytest.mark.parametrize("archive", ARCHIVE)
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoint_gives_its_weights_without_the_prefix_of_data_parallel(tmp_path: Path, key: str, archive: bool) -> None:
    network = nn.DataParallel(nn.Linear(2, 3))
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    checkpoint = {"epoch": 3, key: network.state_dict(), "optimizer": optimiser.state_dict(), "best": 0.5, "note": None}
    assert equal(read_torch_file(saved(tmp_path / "a.pth", checkpoint, archive)), network.module.state_dict())


def test_a_prefix_that_not_all_names_have_belongs_to_them(tmp_path: Path) -> None:
    values = {"module.a": torch.ones(1), "b": torch.ones(2)}
    assert equal(read_torch_file(saved(tmp_path / "a.pth", values, archive=True)), values)


# ---- files of others, written opcode by opcode ------------------------------------------------------------------------------


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


class Named:
    """Pickled as a reference to storage `key` of `count` numbers."""

    def __init__(self, key: Any, count: Any, *view: Any, kind: Any = torch.FloatStorage) -> None:
        self.reference = ("storage", kind, key, "cuda:0", count, *view)


class Pickler(pickle.Pickler):
    def persistent_id(self, item: Any) -> Any:
        return item.reference if isinstance(item, Named) else None


def pickled(content: Any) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, 2).dump(content)
    return stream.getvalue()


def tensor(storage: Named, offset: Any, sides: Any, steps: Any, *more: Any) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, sides, steps, *(more or (False, OrderedDict())))


def written(path: Path, content: Any, storages: dict[str, np.ndarray], archive: bool, little: bool = True) -> Path:
    """A file of either format by hand."""
    if archive:
        with zipfile.ZipFile(path, "w") as members:
            members.writestr("x/data.pkl", pickled(content))
            members.writestr("x/byteorder", "little" if little else "big")
            for key, numbers in storages.items():
                members.writestr(f"x/data/{key}", numbers.tobytes())
    else:
        heads = [pickle.dumps(item, 2) for item in (MAGIC, PROTOCOL, {"little_endian": little})]
        tails = [struct.pack("<q", numbers.size) + numbers.tobytes() for numbers in storages.values()]
        path.write_bytes(b"".join([*heads, pickled(content), pickle.dumps(list(storages), 2), *tails]))
    return path


NUMBERS = {"0": np.arange(6, dtype=np.float32)}


@pytest.mark.parametrize("archive", ARCHIVE)
def test_files_by_hand_are_read_by_torch_and_here(tmp_path: Path, archive: bool) -> None:
    content = OrderedDict(a=tensor(Named("0", 6, *([] if archive else [None])), 1, (2, 2), (3, 1)))
    path = written(tmp_path / "a.pth", content, NUMBERS, archive)
    expected = {"a": torch.tensor([[1.0, 2.0], [4.0, 5.0]])}
    assert equal(read_torch_file(path), expected)
    if not archive:  # the other lacks what only torch's own writer writes
        assert equal(read_torch_file(path), torch.load(path, map_location="cpu", weights_only=True))


def test_very_old_files_have_parts_of_storages_and_another_name_for_tensors(tmp_path: Path) -> None:
    storage = Named("0", 6, ("part", 2, 3))
    content = Call(OrderedDict, [["a", Call(torch._utils._rebuild_tensor, storage, 1, (2,), (1,))]])  # as Python 2 does
    path = written(tmp_path / "a.pth", content, NUMBERS, archive=False)
    assert read_torch_file(path)["a"].tolist() == [3, 4]


@pytest.mark.parametrize("archive", ARCHIVE)
@pytest.mark.parametrize(
    "item",
    [
        tensor(Named("0", 6), 0, (7,), (1,)),
        tensor(Named("0", 6), 6, (1,), (1,)),
        tensor(Named("0", 6), 7, (0,), (1,)),
        tensor(Named("0", 6), 0, (2, 2), (4, 2)),
        tensor(Named("0", 6), 5, (2,), (-1,)),
        tensor(Named("0", 6), -1, (2,), (1,)),
        tensor(Named("0", 6), 0, (-2,), (1,)),
        tensor(Named("0", 6), 0, (2,), (2**62,)),
        tensor(Named("0", 6), 0, (2**40, 2**40), (0, 0)),
        tensor(Named("0", 6), 0, (2**70,), (0,)),
        tensor(Named("0", 6), 0, (0, 2**62), (1, 1)),
        tensor(Named("0", 6), 2**64, (1,), (1,)),
        tensor(Named("0", 6), 0, (2,), (1, 1)),
        tensor(Named("0", 6), 0, (2.0,), (1,)),
        tensor(Named("0", 6), True, (2,), (1,)),
        tensor(Named("0", 6), 0, 2, 1),
        tensor(Named("0", 6), 0, (2,), (1,), False, OrderedDict(), {"neg": True}),
        tensor(Named("0", 600), 0, (600,), (1,)),
        tensor(Named("0", -1), 0, (0,), (1,)),
        tensor(Named("0", 2**61), 0, (1,), (1,)),
        tensor(Named("0", 6, kind=torch.DoubleStorage), 0, (6,), (1,)),
        tensor(Named("1", 6), 0, (6,), (1,)),
        tensor(Named(0, 6), 0, (6,), (1,)),
        tensor(Named("0", 6, ("part", 4, 3)), 0, (3,), (1,)),
        tensor(Named("0", 6, ("part", -1, 3)), 0, (3,), (1,)),
        tensor(Named("0", 6, ("part", 4, 2)), 0, (3,), (1,)),
        tensor(Named("0", 6, kind="FloatStorage"), 0, (6,), (1,)),
        tensor(None, 0, (6,), (1,)),
        Call(torch._utils._rebuild_tensor_v2),
        Call(torch._utils._rebuild_parameter, torch.FloatStorage),
        Call(torch._utils._rebuild_parameter, Call(torch._utils._rebuild_parameter, tensor(Named("0", 6), 0, (6,), (1,)))),
    ],
)
def test_what_would_reach_outside_the_file_is_one_sentence(tmp_path: Path, item: Call, archive: bool) -> None:
    sentence = refusal(written(tmp_path / "a.pth", {"a": item}, NUMBERS, archive))
    assert sentence.startswith((DAMAGED, "has tensors that repeat its numbers many times over"))


@pytest.mark.parametrize("archive", ARCHIVE)
def test_many_tensors_of_one_storage_are_refused(tmp_path: Path, archive: bool) -> None:
    numbers = {"0": np.zeros(2**16, np.float32)}
    content = {str(number): tensor(Named("0", 2**16), 0, (2**16,), (1,)) for number in range(9)}
    path = written(tmp_path / "a.pth", content, numbers, archive)
    assert refusal(path).startswith("has tensors that repeat its numbers many times over; get it from where")


@pytest.mark.parametrize("archive", ARCHIVE)
def test_deep_nesting_is_one_sentence(tmp_path: Path, archive: bool) -> None:
    path, depth = written(tmp_path / "a.pth", {}, {}, archive), 20_000
    content = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    if archive:
        with zipfile.ZipFile(path, "w") as members:
            members.writestr("x/data.pkl", content)
    else:
        path.write_bytes(path.read_bytes().replace(pickled({}), content, 1))
    assert refusal(path) == DAMAGED


@pytest.mark.parametrize("archive", ARCHIVE)
def test_other_byte_orders_are_refused(tmp_path: Path, archive: bool) -> None:
    path = written(tmp_path / "a.pth", {"a": tensor(Named("0", 6), 0, (6,), (1,))}, NUMBERS, archive, little=False)
    assert refusal(path).startswith("was saved by a big-endian machine, whose numbers are not read; get it")


@pytest.mark.parametrize("archive", ARCHIVE)
@pytest.mark.parametrize("place", ["whole", "name", "tensor", "beside", "state"])
def test_what_a_file_names_is_said_and_not_run(tmp_path: Path, archive: bool, place: str) -> None:
    sign = tmp_path / "sign"
    call = Call(os.system, f"touch {sign}")
    content = {
        "whole": call,
        "name": {call: 1},
        "tensor": {"a": call},
        "beside": {"state_dict": {"a": tensor(Named("0", 6), 0, (6,), (1,))}, "hook": call},
        "state": tensor(Named("0", 6), 0, (6,), (1,), False, call),
    }[place]
    path = written(tmp_path / "a.pth", content, NUMBERS, archive)
    assert refusal(path).startswith(f"names '{os.name}.system', which weights of a network never need, and which was not run; ")
    assert not sign.exists()


def test_the_hostile_file_is_one(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    torch.load(written(tmp_path / "a.pth", Call(os.system, f"touch {sign}"), {}, archive=False), weights_only=False)
    assert sign.exists()


@pytest.mark.parametrize("archive", ARCHIVE)
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (nn.Linear(1, 1), "names 'torch.nn.modules.linear.Linear', which weights of a network never need"),
        ({"args": Namespace(), "model": {}}, "names 'argparse.Namespace', which weights"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "names 'torch.ComplexFloatStorage', which weights"),
        ({"a": 3}, "gives 'a' something else than a tensor; get it"),
        ({"a": {"b": torch.ones(1)}}, "gives 'a' something else than a tensor; get it"),
        ({}, "holds no tensor; get it"),
        ({"model": {}, "a": torch.ones(1)}, "holds no tensor; get it"),
        ([torch.ones(1)], DAMAGED),
        (torch.ones(1), DAMAGED),
        ({1: torch.ones(1)}, DAMAGED),
    ],
)
def test_other_content_is_one_sentence(tmp_path: Path, content: Any, sentence: str, archive: bool) -> None:
    assert refusal(saved(tmp_path / "a.pth", content, archive)).startswith(sentence)


SMALL = {"a": torch.arange(3.0), "b": torch.ones(1, dtype=torch.int16), "c": torch.empty(0)}


@pytest.mark.parametrize("archive", ARCHIVE)
def test_a_file_cut_anywhere_is_one_sentence(tmp_path: Path, archive: bool) -> None:
    whole = saved(tmp_path / "whole.pth", SMALL, archive).read_bytes()
    path = tmp_path / "a.pth"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(path) == DAMAGED


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in damaged text
@pytest.mark.parametrize("archive", ARCHIVE)
def test_a_damaged_file_is_one_sentence_or_read(tmp_path: Path, archive: bool) -> None:
    whole = saved(tmp_path / "whole.pth", SMALL, archive).read_bytes()
    random, path, refused = np.random.default_rng(0), tmp_path / "a.pth", 0
    for _ in range(500):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 4)):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        with suppress(ValueError):
            read_torch_file(path)
            continue
        assert "\n" not in refusal(path)
        refused += 1
    assert refused > 100


def test_archives_that_are_compressed_or_changed_are_one_sentence(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.pth", saved(tmp_path / "whole.pth", {"a": torch.full((64,), 3.0)}, archive=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members, zipfile.ZipFile(whole) as source:
        for name in source.namelist():
            members.writestr(name, source.read(name))
    assert refusal(path) == DAMAGED
    changed = whole.read_bytes().replace(struct.pack("<2f", 3, 3), struct.pack("<2f", 3, 4), 1)
    path.write_bytes(changed)
    assert refusal(path) == DAMAGED


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80", b"text", b"\x80\x02N."])
def test_other_files_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert refusal(path) == DAMAGED


# ---- the rule that converts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archive", ARCHIVE)
@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a"])
def test_weights_of_torch_become_safetensors_whatever_their_name(tmp_path: Path, name: str, archive: bool) -> None:
    path, output = saved(tmp_path / name, sample(), archive), tmp_path / "a.safetensors"
    fetch_weights(recipe=canonical(Weights(model="resnet38", file=str(path))), weights=output)
    found = load_file(output)
    assert {name: item.tolist() for name, item in found.items()} == {name: item.tolist() for name, item in sample().items()}
