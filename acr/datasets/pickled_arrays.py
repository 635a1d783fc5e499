"""Arrays and scalars of numpy in a pickle that `acr.pickles` has read as data."""

import re
from typing import Any

import numpy as np
from jaxtyping import Shaped

from acr.pickles import Made, Vocabulary, require

# what pickles of arrays, scalars and their types name; numpy 1 says core where numpy 2 says _core
NAMES = {
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode", "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar"),
    *("numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar"),
    *("numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer"),
}
ARRAYS = Vocabulary(frozenset(NAMES), "image ids and numpy vectors")
SIMPLE_TYPE = re.compile(r"b1|[iu][1248]|f[248]|[US]\d+|O8?")


def array_of(value: Any) -> Shaped[np.ndarray, "..."]:
    """The array that a `Made` stands for; an array of objects holds what `inert` gives for them.

    Raises:
        ValueError, IndexError or TypeError: it stands for something else.
    """
    if value.symbol.endswith("._frombuffer"):
        data, kind, shape, order = value.arguments
    else:
        require(value.symbol.endswith("._reconstruct"))
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
    require(value.symbol.endswith(".scalar"))
    kind, data = value.arguments
    return np.frombuffer(_bytes_of(data), _type_of(kind)).item()


def _type_of(value: Made) -> np.dtype:
    require(value.symbol == "numpy.dtype")
    name, order = value.arguments[0], value.state[1]
    require(SIMPLE_TYPE.fullmatch(name) is not None and order in ("<", ">", "|", "="))
    return np.dtype(order + name)


def _bytes_of(value: Any) -> bytes | bytearray:
    """Bytes as such, as the text that protocols before 3 disguise them as, or as a string of Python 2."""
    if isinstance(value, Made):
        require(value.symbol == "_codecs.encode")
        value = value.arguments[0]
    return value.encode("latin-1") if isinstance(value, str) else value
