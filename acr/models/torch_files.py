"""Weights in a file of torch.save, read without unpickling: what it says is data, and nothing it names is called.

Two formats: an archive with one member a storage, and, until torch 1.5, pickles in a row before the storages.
"""

import io
import math
import mmap
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acr.pickles import ORDERED, Made, RefusedError, Symbol, Vocabulary, inert, require

BEGINNINGS = (b"\x80", b"PK\x03\x04")  # of either format
TYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
PARAMETER = "torch._utils._rebuild_parameter"
TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
NAMES = frozenset({*TYPES, PARAMETER, *TENSORS, ORDERED})
WEIGHTS = Vocabulary(NAMES, "weights of a network", largest=2**24)
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what the pickles of the old format begin with
NESTED = ("state_dict", "model")  # where checkpoints have the weights
PREFIX = "module."  # that DataParallel puts before every name
LARGEST = 2**63  # numbers of a tensor, more than fit anything
LEAST, GROWTH = 2**20, 4  # bytes that all tensors may have together, and how many times those of the file


@dataclass
class _Storage:
    """Numbers in a row, and where in the file they start once that is known."""

    kind: torch.dtype
    count: int
    start: int | None = None

    @property
    def bytes(self) -> int:
        return self.count * self.kind.itemsize


@dataclass(frozen=True)
class _Part:
    """Numbers of a storage from `first` on."""

    storage: _Storage
    first: int
    count: int


@dataclass(frozen=True)
class _Layout:
    """Where the numbers of a tensor lie: `steps` are its strides in numbers, `reach` is from the first to the last one."""

    kind: torch.dtype
    start: int
    sides: tuple[int, ...]
    steps: tuple[int, ...]
    reach: int

    @property
    def bytes(self) -> int:
        # no side counts as none, so that the others are bounded too
        return math.prod(max(side, 1) for side in self.sides) * self.kind.itemsize


class _Storages(dict[str, _Storage]):
    """The storages of a file by their keys."""

    def refer(self, reference: Any) -> _Part:
        """What a persistent id of a pickle stands for: part of a storage, which is all of it unless torch is very old."""
        mark, symbol, key, _, count, *view = reference
        require(mark == "storage" and isinstance(symbol, Symbol) and isinstance(key, str) and _is_size(count))
        storage = self.setdefault(key, _Storage(TYPES[symbol.name], count))
        require((storage.kind, storage.count) == (TYPES[symbol.name], count))
        if not any(view):
            return _Part(storage, 0, count)
        ((_, first, part),) = view
        require(_is_size(first) and _is_size(part) and first + part <= count)
        return _Part(storage, first, part)


def read_torch_file(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one a checkpoint holds as `state_dict` or `model`, without DataParallel's prefix.

    They are contiguous and no two share memory; most lie in the file, which is mapped and read once they are used.

    Raises:
        ValueError: one sentence that names the file: it is damaged, is something else, or names what weights do not need.
    """
    path = Path(path)
    try:
        return _read(path)
    except RefusedError as error:
        raise ValueError(f"{path} {error}; get it from where you trust it, or give weights saved as safetensors") from None
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception:  # of any kind: damage meets pickletools, zipfile and torch in many ways
        raise ValueError(
            f"{path} is cut short, or not what torch.save writes of a state dict; "
            "get it again, or give weights saved as safetensors"
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as stream:
        # private: torch wants memory that can be written to, and the file stays as it is
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    value = _archive(path, memory) if memory[:4] == BEGINNINGS[1] else _sequence(memory)
    return _tensors(memory, _layouts(_state(value), max(LEAST, GROWTH * len(memory))))


# ---- the two formats -----------------------------------------------------------------------------------------------------


def _archive(path: Path, memory: mmap.mmap) -> Any:
    """The value of the newer format, of which every storage is found."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
    (name,) = (name for name in members if name.endswith("/data.pkl") and name.count("/") == 1)
    folder, storages = name.removesuffix("/data.pkl"), _Storages()
    order = members.get(f"{folder}/byteorder")
    _require_little(order is None or memory[_place(memory, order)] == b"little")
    value = inert(io.BytesIO(memory[_place(memory, members[name])]), WEIGHTS, storages.refer)
    for key, storage in storages.items():
        place = _place(memory, members[f"{folder}/data/{key}"])
        require(place.stop - place.start == storage.bytes)
        storage.start = place.start
    return value


def _place(memory: mmap.mmap, member: zipfile.ZipInfo) -> slice:
    """Where the bytes of a member lie, which torch never compresses; they have their checksum."""
    beginning, name, extra = struct.unpack_from("<4s22xHH", memory, member.header_offset)
    start = member.header_offset + 30 + name + extra
    place = slice(start, start + member.file_size)
    stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
    require(beginning == BEGINNINGS[1] and stored and not member.flag_bits & 1 and place.stop <= len(memory))
    require(zlib.crc32(memoryview(memory)[place]) == member.CRC)
    return place


def _sequence(memory: mmap.mmap) -> Any:
    """The value of the older format, of which every storage is found."""
    storages = _Storages()
    magic, protocol, system = (inert(memory, WEIGHTS) for _ in range(3))
    require((magic, protocol) == (MAGIC, PROTOCOL))
    _require_little(system["little_endian"] is True)
    value = inert(memory, WEIGHTS, storages.refer)
    keys, position = inert(memory, WEIGHTS), memory.tell()
    require(sorted(keys) == sorted(storages))
    for key in keys:
        (count,) = struct.unpack_from("<q", memory, position)
        require(count == storages[key].count)
        storages[key].start = position + 8
        position += 8 + storages[key].bytes
        require(position <= len(memory))
    return value


def _require_little(little: bool) -> None:
    if not little:
        raise RefusedError("was saved by a big-endian machine, whose numbers are not read")


# ---- from the value of a pickle to tensors -------------------------------------------------------------------------------


def _state(value: Any) -> dict[str, Any]:
    """What stands for tensors, by the names that the network without DataParallel has."""
    require(isinstance(value, dict))
    state = next((value[key] for key in NESTED if isinstance(value.get(key), dict)), value)
    require(all(isinstance(name, str) for name in state))
    if not state:
        raise RefusedError("holds no tensor")
    if all(name.startswith(PREFIX) for name in state):
        return {name.removeprefix(PREFIX): item for name, item in state.items()}
    return state


def _layouts(state: dict[str, Any], room: int) -> dict[str, _Layout]:
    """Where the numbers of every tensor lie, all inside the file, and no more of them than `room` bytes."""
    found = {}
    for name, item in state.items():
        if not isinstance(item, Made):
            raise RefusedError(f"gives {name[:80]!r} something else than a tensor")
        found[name] = _layout(item.arguments[0] if item.symbol == PARAMETER else item)
        room -= found[name].bytes
        if room < 0:
            raise RefusedError("has tensors that repeat its numbers many times over")
    return found


def _layout(item: Made) -> _Layout:
    """Where the numbers of a tensor lie, all inside its part of a storage."""
    # what may follow are gradients, hooks and, last of all, that numbers are to be negated or conjugated
    require(item.symbol in TENSORS and not any(item.arguments[6:]))
    part, offset, sides, steps = item.arguments[:4]
    require(len(sides) == len(steps) and all(map(_is_size, (offset, *sides, *steps))))
    reach = 1 + sum((side - 1) * step for side, step in zip(sides, steps, strict=True)) if all(sides) else 0
    require(offset + reach <= part.count)
    storage = part.storage
    return _Layout(storage.kind, storage.start + (part.first + offset) * storage.kind.itemsize, sides, steps, reach)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _tensors(memory: mmap.mmap, layouts: dict[str, _Layout]) -> dict[str, Tensor]:
    tensors, seen = {}, set()
    for name, layout in layouts.items():
        tensor = _tensor(memory, layout)
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return tensors


def _tensor(memory: mmap.mmap, layout: _Layout) -> Tensor:
    if not layout.reach:
        return torch.empty(layout.sides, dtype=layout.kind)
    numbers = torch.frombuffer(memory, dtype=layout.kind, count=layout.reach, offset=layout.start)
    return numbers.as_strided(layout.sides, layout.steps).contiguous()
