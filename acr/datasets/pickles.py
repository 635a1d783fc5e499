"""What a pickle of numpy data holds, without unpickling it: its opcodes are read as data, and nothing it names is called."""

import pickletools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

CONSTANTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
SINGLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# what pickles of arrays, scalars and their types name; numpy 1 says core where numpy 2 says _core
SYMBOLS = {
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode", "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar"),
    "numpy._core.numeric._frombuffer",
}
SIMPLE_TYPE = re.compile(r"b1|[iu][1248]|f[248]|[US]\d+|O8?")


class RefusedError(ValueError):
    """A pickle uses what no plain numpy data need; what is said of it lacks the name of its file."""


@dataclass(frozen=True)
class Symbol:
    """One of SYMBOLS, as a name alone."""

    name: str


@dataclass(eq=False)
class Made:
    """What unpickling would have made by calling `symbol` with `arguments` and giving the result a `state`."""

    symbol: str
    arguments: tuple
    state: Any = None


def inert(content: bytes) -> Any:
    """The value of a pickle of any protocol: plain data, and `Made` where something would have been called.

    Raises:
        RefusedError: it names anything but SYMBOLS, or has an opcode that plain data never need.
        ValueError, IndexError, KeyError or TypeError: it is damaged or cut short.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(content):
        machine.step(opcode.name, argument)
    (value,) = machine.stack
    return value


def array_of(value: Any) -> Shaped[np.ndarray, "..."]:
    """The array that a `Made` stands for; an array of objects holds what `inert` gives for them.

    Raises:
        ValueError, IndexError or TypeError: it stands for something else.
    """
    if value.symbol.endswith("._frombuffer"):
        data, kind, shape, order = value.arguments
    else:
        _require(value.symbol.endswith("._reconstruct"))
        _, shape, kind, by_columns, data = value.state
        order = "F" if by_columns else "C"
    kind = _type_of(kind)
    if not kind.hasobject:
        return np.frombuffer(_bytes_of(data), kind).reshape(shape, order=order)
    flat = np.empty(len(data), object)
    for place, item in enumerate(data):
        flat[place] = item
    return flat.reshape(shape, order=order)


def plain_of(value: Any) -> Any:
    """The number or string that a `Made` stands for, which must be a numpy scalar; any other value as it is."""
    if not isinstance(value, Made):
        return value
    _require(value.symbol.endswith(".scalar"))
    kind, data = value.arguments
    return np.frombuffer(_bytes_of(data), _type_of(kind)).item()


def _type_of(value: Made) -> np.dtype:
    _require(value.symbol == "numpy.dtype")
    name, order = value.arguments[0], value.state[1]
    _require(SIMPLE_TYPE.fullmatch(name) is not None and order in ("<", ">", "|", "="))
    return np.dtype(order + name)


def _bytes_of(value: Any) -> bytes | bytearray:
    """Bytes as such, as the text that protocols before 3 disguise them as, or as a string of Python 2."""
    if isinstance(value, Made):
        _require(value.symbol == "_codecs.encode")
        value = value.arguments[0]
    return value.encode("latin-1") if isinstance(value, str) else value


def _require(holds: bool) -> None:
    if not holds:
        raise TypeError


class _Machine:
    """What unpickling keeps: a stack, the places in it where containers begin, and values to be used again."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(self.stack))
            case "APPEND":
                self.extend(self.take(1))
            case "APPENDS":
                self.extend(self.above_mark())
            case "SETITEM":
                self.fill(self.take(2))
            case "SETITEMS":
                self.fill(self.above_mark())
            case "BUILD":
                self.build(*self.take(1))
            case _:
                self.stack.append(argument if opcode in CONSTANTS else self.made(opcode, argument))

    def made(self, opcode: str, argument: Any) -> Any:
        """The new value that an opcode puts on the stack."""
        match opcode:
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                return SINGLE[opcode]
            case "EMPTY_LIST":
                return []
            case "EMPTY_DICT":
                return {}
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                return tuple(self.take(int(opcode[-1])))
            case "TUPLE":
                return tuple(self.above_mark())
            case "LIST":
                return self.above_mark()
            case "DICT":
                return _dictionary(self.above_mark())
            case "GLOBAL":
                return _symbol(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                return _symbol(".".join(self.take(2)))
            case "REDUCE":
                return _called(*self.take(2))
        raise RefusedError(f"uses {opcode}, which pickles of image ids and numpy vectors never do")

    def take(self, count: int) -> list[Any]:
        """The uppermost values, removed."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def above_mark(self) -> list[Any]:
        """The values above the last mark, removed with it."""
        return self.take(len(self.stack) - self.marks.pop())

    def extend(self, items: list[Any]) -> None:
        _require(isinstance(self.stack[-1], list))
        self.stack[-1].extend(items)

    def fill(self, items: list[Any]) -> None:
        _require(isinstance(self.stack[-1], dict))
        self.stack[-1].update(_dictionary(items))

    def build(self, state: Any) -> None:
        _require(isinstance(self.stack[-1], Made))
        self.stack[-1].state = state


def _dictionary(items: list[Any]) -> dict:
    """Keys and values in turn; a key is no tuple, since one of tuples of tuples could not be hashed safely."""
    _require(all(isinstance(key, str | bytes | int | Made) for key in items[::2]))
    return dict(zip(items[::2], items[1::2], strict=True))


def _symbol(name: str) -> Symbol:
    if name.replace("numpy.core.", "numpy._core.") not in SYMBOLS:
        raise RefusedError(f"names {name[:80]!r}, which image ids and numpy vectors never need, and which was not run")
    return Symbol(name)


def _called(symbol: Any, arguments: Any) -> Made:
    _require(isinstance(symbol, Symbol) and isinstance(arguments, tuple))
    return Made(symbol.name, arguments)
