"""Tensors that stay on disk until each is asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from gwsmm.artefact import Member, State

if TYPE_CHECKING:
    from torch import Size, Tensor


class Stored(Mapping[str, "Tensor"]):
    """A member's tensors by name, each read when it is asked for.

    The files are mapped into memory and opened anew for every tensor: the memory of a tensor that
    nobody holds any more is given back, however large the files are.

    Args:
        member: whose tensors these are.
        parts: of the encoder, `trunk` or `pooler`; those that the member has.
    """

    def __init__(self, member: Member, parts: Sequence[str]) -> None:
        from safetensors import safe_open

        self._where: dict[str, tuple[Path, str]] = {}
        for part in parts:
            if member.made.has(f"{part}.safetensors"):
                path = member.made.file(f"{part}.safetensors")  # verifies its checksum, once
                with safe_open(path, framework="pt") as file:
                    names = file.keys()
                self._where |= {f"{part}.{name}": (path, name) for name in names}

    def __getitem__(self, name: str) -> "Tensor":
        from safetensors import safe_open

        path, inside = self._where[name]
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(inside)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


Reader = Callable[[slice], "Tensor"]
"""Gives the entries of a slice of a flattened tensor."""


class Tensors(Sequence["Tensor"]):
    """The tensor of one name of every member, each read anew whenever it is asked for.

    Who takes one after the other has one in memory, and who needs all members side by side goes
    through `pieces`: what is in memory does not grow with their number.

    Args:
        shape: of each.
        readers: of each.
    """

    def __init__(self, shape: "Size", readers: Sequence[Reader]) -> None:
        self.shape, self.readers = shape, readers

    @classmethod
    def of(cls, tensors: Sequence["Tensor"]) -> "Tensors":
        """The same tensors, if they are not such already."""
        if isinstance(tensors, Tensors):
            return tensors
        return cls(tensors[0].shape, [tensor.flatten().__getitem__ for tensor in tensors])

    @overload
    def __getitem__(self, i: int) -> "Tensor": ...

    @overload
    def __getitem__(self, i: slice) -> "Tensors": ...

    def __getitem__(self, i: int | slice) -> "Tensor | Tensors":
        if isinstance(i, slice):
            return Tensors(self.shape, self.readers[i])
        return self.readers[i](slice(0, self.shape.numel())).reshape(self.shape)

    def __len__(self) -> int:
        return len(self.readers)

    def pieces(self) -> Iterator[tuple[slice, list["Tensor"]]]:
        """Slices of the flattened tensors, one after the other, with these entries of each.

        The more members, the smaller the slices. Their lengths are powers of two: the last bits of
        a sum over members hang on how its columns fall into registers.
        """
        entries = self.shape.numel()
        step = 1 << min(18, 22 - (len(self) - 1).bit_length())
        for start in range(0, entries, step):
            at = slice(start, min(start + step, entries))
            yield at, [read(at) for read in self.readers]


def tensors_of(states: Iterable[State], name: str, like: "Tensor") -> Tensors:
    """The tensor of this name of every state, on the device of one of the same shape."""

    def reader(state: State) -> Reader:
        return lambda at: state[name].flatten()[at].to(like.device)

    return Tensors(like.shape, [reader(state) for state in states])
