"""What a pickle holds, without unpickling it: its opcodes are read as data, and nothing it names is called."""

import pickletools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from mmap import mmap
from typing import Any

CONSTANTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
SINGLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
ORDERED = "collections.OrderedDict"


class RefusedError(ValueError):
    """A pickle uses what no plain data of its kind need; what is said of it lacks the name of its file."""


@dataclass(frozen=True)
class Vocabulary:
    """What pickles of one kind may name, and in messages what they are of; `largest` is how many bytes they may take."""

    names: frozenset[str]
    content: str
    largest: int = sys.maxsize


@dataclass(frozen=True)
class Symbol:
    """One of the names of a vocabulary, as a name alone."""

    name: str


@dataclass(eq=False)
class Made:
    """What unpickling would have made by calling `symbol` with `arguments` and giving the result a `state`."""

    symbol: str
    arguments: tuple
    state: Any = None


def inert(content: bytes | BytesIO | mmap, vocabulary: Vocabulary, refer: Callable[[Any], Any] | None = None) -> Any:
    """The value of a pickle of any protocol: plain data, and `Made` where something would have been called.

    Args:
        content: the pickle, or a stream in which it comes next and which is left behind its end.
        vocabulary: what it may name. OrderedDict, where that is among it, is a dictionary.
        refer: what a reference to something outside the pickle (a persistent id) stands for; without it there may be none.

    Raises:
        RefusedError: it names anything else, or has an opcode that plain data never need.
        ValueError, IndexError, KeyError or TypeError: it is damaged, cut short or too large.
    """
    machine, first = _Machine(vocabulary, refer), None
    for opcode, argument, place in pickletools.genops(content):  # type: ignore[arg-type]  # mmap reads as a stream does
        assert place is not None  # of what can tell it
        first = place if first is None else first
        require(place - first < vocabulary.largest)
        machine.step(opcode.name, argument)
    (value,) = machine.stack
    return value


def require(holds: bool) -> None:
    """A TypeError, which readers of pickles take for damage, unless the condition holds."""
    if not holds:
        raise TypeError


class _Machine:
    """What unpickling keeps: a stack, the places in it where containers begin, and values to be used again."""

    def __init__(self, vocabulary: Vocabulary, refer: Callable[[Any], Any] | None) -> None:
        self.vocabulary, self.refer = vocabulary, refer
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
                return self.symbol(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                return self.symbol(".".join(self.take(2)))
            case "REDUCE":
                return _called(*self.take(2))
            case "BINPERSID" if self.refer:
                return self.refer(*self.take(1))
        raise RefusedError(f"uses {opcode}, which pickles of {self.vocabulary.content} never do")

    def symbol(self, name: str) -> Symbol:
        if name not in self.vocabulary.names:
            never = f"which {self.vocabulary.content} never need, and which was not run"
            raise RefusedError(f"names {name[:80]!r}, {never}")
        return Symbol(name)

    def take(self, count: int) -> list[Any]:
        """The uppermost values, removed."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def above_mark(self) -> list[Any]:
        """The values above the last mark, removed with it."""
        return self.take(len(self.stack) - self.marks.pop())

    def extend(self, items: list[Any]) -> None:
        require(isinstance(self.stack[-1], list))
        self.stack[-1].extend(items)

    def fill(self, items: list[Any]) -> None:
        require(isinstance(self.stack[-1], dict))
        self.stack[-1].update(_dictionary(items))

    def build(self, state: Any) -> None:
        require(isinstance(self.stack[-1], Made | dict))
        if isinstance(self.stack[-1], Made):  # a dictionary's are attributes, which are no data
            self.stack[-1].state = state


def _dictionary(items: list[Any]) -> dict:
    """Keys and values in turn; a key is no tuple, since one of tuples of tuples could not be hashed safely."""
    require(all(isinstance(key, str | bytes | int | Made) for key in items[::2]))
    return dict(zip(items[::2], items[1::2], strict=True))


def _called(symbol: Any, arguments: Any) -> Made | dict:
    require(isinstance(symbol, Symbol) and isinstance(arguments, tuple))
    if symbol.name == ORDERED:  # in Python 2 called with a list of pairs
        return _dictionary([item for pair in (arguments[0] if arguments else []) for item in pair])
    return Made(symbol.name, arguments)
