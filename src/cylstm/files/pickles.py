"""Pickle streams, read as data: nothing that they name is imported, and nothing is called, hashed or compared.

A reader of our own, for pickle.Unpickler takes a memo of any size from four bytes, hashes keys that the file chooses,
and calls what a stream puts together. What a stream names becomes a :class:`Name`; what it makes of a name becomes a
:class:`Thing`, or what the caller's table of known names makes of the arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

#: A step makes an object of up to about 100 bytes.
MAX_STEPS = 4_000_000


class Name(NamedTuple):
    """What a stream names, a class or function; never looked up."""

    text: str  # module.name


class Table:
    """A dict: its pairs, as they come. No key is hashed, so none that a file has chosen can make it slow."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] | tuple[()] = ()  # an empty one takes little memory


class Thing(Table):
    """An object that is not made: what a stream would make it of. The pairs are its items, where it is a mapping."""

    __slots__ = ("name", "parts")

    def __init__(self, name: str, *parts: Any) -> None:
        super().__init__()
        self.name = name  # of the class or function
        self.parts = list(parts)  # arguments, states, elements


#: What is made of the arguments of a known name.
Known = Mapping[str, Callable[..., Any]]


def read_pickle(data: Any, begin: int, known: Known, persistent: Callable[[Any], Any]) -> tuple[Any, int]:
    """The object that a stream describes, and where the stream ends.

    Parameters
    ----------
    data : bytes-like
        It is sliced, never copied as a whole.
    begin : int
        Where the stream begins.
    known : mapping of str to callable
        ``module.name`` → what makes the object of the arguments. It must expect arguments of any kind.
    persistent : callable
        What stands for a persistent id.

    Raises
    ------
    ValueError
        If it is no pickle of protocol 2 to 5, or takes more than `MAX_STEPS` steps.
    """
    reader = _Reader(data, begin, known, persistent)
    try:
        for _ in range(MAX_STEPS):
            at = reader.position
            [opcode] = reader.take(1)
            if opcode == _STOP:
                return reader.stack.pop(), reader.position
            action = _ACTIONS.get(opcode)
            if action is None:
                raise ValueError(f"opcodes must be those of pickle protocols 2 to 5, got {opcode:#04x} at byte {at}")
            action(reader)
    except IndexError:
        raise ValueError(f"what an opcode takes must be on the stack, got an empty one at byte {at}") from None
    raise ValueError(f"the pickle must take at most {MAX_STEPS} steps, got more: save the state_dict alone")


class _Reader:
    """The state of pickle's machine."""

    def __init__(self, data: Any, begin: int, known: Known, persistent: Callable[[Any], Any]) -> None:
        self.data, self.position = data, begin
        self.known, self.persistent = known, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        taken = self.data[self.position : self.position + count]
        if len(taken) != count:
            raise ValueError(f"the pickle must go on for {count} bytes or more, got its end")
        self.position += count
        return bytes(taken)

    def number(self, form: str) -> Any:
        [value] = struct.unpack(form, self.take(struct.calcsize(form)))
        return value

    def text(self, form: str) -> str:
        return self.take(self.number(form)).decode("utf-8", "backslashreplace")

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + 1000)
        if end < 0:
            raise ValueError("a name must have at most 1000 bytes, got more")
        return self.take(end + 1 - self.position)[:-1].decode("utf-8", "backslashreplace")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()  # the mark itself

    def several(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"the pickle must have stored what it asks for, got a request for object {index}")
        self.push(self.memo[index])

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError(f"a name must be text, got a {type(name).__name__}")
        text = f"{module}.{name}"  # it is shown in messages
        self.push(Name(text if text.isprintable() else repr(text)[1:-1]))

    def make(self, arguments: Any, *more: Any) -> None:
        function = self.stack.pop()
        if not isinstance(arguments, tuple):
            raise ValueError(f"arguments must be a tuple, got a {type(arguments).__name__}")
        if isinstance(function, Name) and (maker := self.known.get(function.text)) and not more:
            try:
                self.push(maker(*arguments))
            except TypeError:
                raise ValueError(f"{function.text} must have other arguments, got {len(arguments)}") from None
        else:
            name = function.text if isinstance(function, Name) else getattr(function, "name", "an object of the file")
            self.push(Thing(name, *arguments, *more))

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Thing):
            self.stack[-1].parts.append(state)
        elif type(self.stack[-1]) is not Table:  # a dict has attributes of little interest: versions of modules
            raise ValueError(f"a state must be that of an object, got that of a {type(self.stack[-1]).__name__}")

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, (list, Thing)):
            raise ValueError(f"elements must be those of a list, got those of a {type(target).__name__}")
        (target if isinstance(target, list) else target.parts).extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Table) or len(values) % 2:
            raise ValueError(f"items must be pairs of a dict, got {len(values)} values of a {type(target).__name__}")
        target.pairs = target.pairs or []
        target.pairs.extend(zip(values[::2], values[1::2], strict=True))

    def pair(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def stacked_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def long(self) -> None:
        self.push(int.from_bytes(self.take(self.number("<B")), "little", signed=True))


_STOP = ord(".")
#: By opcode: what it does. Those of protocols 0 and 1 alone, of extensions and of buffers outside are not there.
_ACTIONS: dict[int, Callable[[_Reader], Any]] = {
    0x80: lambda r: r.take(1),  # PROTO
    0x95: lambda r: r.take(8),  # FRAME
    ord("("): _Reader.mark,
    ord("0"): _Reader.pop,
    ord("1"): lambda r: r.since_mark() and None,
    ord("N"): lambda r: r.push(None),
    0x88: lambda r: r.push(True),
    0x89: lambda r: r.push(False),
    ord("K"): lambda r: r.push(r.number("<B")),
    ord("M"): lambda r: r.push(r.number("<H")),
    ord("J"): lambda r: r.push(r.number("<i")),
    0x8A: _Reader.long,
    ord("G"): lambda r: r.push(r.number(">d")),
    ord("U"): lambda r: r.push(r.text("<B")),  # SHORT_BINSTRING and BINSTRING, of Python 2
    ord("T"): lambda r: r.push(r.text("<I")),
    0x8C: lambda r: r.push(r.text("<B")),
    ord("X"): lambda r: r.push(r.text("<I")),
    0x8D: lambda r: r.push(r.text("<Q")),
    ord("C"): lambda r: r.push(r.take(r.number("<B"))),  # bytes
    ord("B"): lambda r: r.push(r.take(r.number("<I"))),
    0x8E: lambda r: r.push(r.take(r.number("<Q"))),
    0x96: lambda r: r.push(r.take(r.number("<Q"))),  # bytearray
    ord(")"): lambda r: r.push(()),
    ord("t"): lambda r: r.push(tuple(r.since_mark())),
    0x85: lambda r: r.several(1),
    0x86: lambda r: r.several(2),
    0x87: lambda r: r.several(3),
    ord("]"): lambda r: r.push([]),
    ord("l"): lambda r: r.push(r.since_mark()),
    0x8F: lambda r: r.push([]),  # a set
    0x91: lambda r: r.push(r.since_mark()),  # a frozenset
    ord("a"): lambda r: r.extend([r.stack.pop()]),
    ord("e"): lambda r: r.extend(r.since_mark()),
    0x90: lambda r: r.extend(r.since_mark()),
    ord("}"): lambda r: r.push(Table()),
    ord("s"): _Reader.pair,
    ord("u"): lambda r: r.set_items(r.since_mark()),
    ord("q"): lambda r: r.put(r.number("<B")),
    ord("r"): lambda r: r.put(r.number("<I")),
    0x94: lambda r: r.put(len(r.memo)),
    ord("h"): lambda r: r.get(r.number("<B")),
    ord("j"): lambda r: r.get(r.number("<I")),
    ord("c"): lambda r: r.name(r.line(), r.line()),
    0x93: _Reader.stacked_name,
    ord("Q"): lambda r: r.push(r.persistent(r.stack.pop())),
    ord("R"): lambda r: r.make(r.stack.pop()),
    0x81: lambda r: r.make(r.stack.pop()),
    0x92: lambda r: r.make(r.stack.pop(-2), r.stack.pop()),  # class, arguments, keywords
    ord("b"): _Reader.build,
}
