"""Tensors that stay on disk until each is asked for."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gwsmm.artefact import Member

if TYPE_CHECKING:
    from torch import Tensor


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


def pieces(entries: int) -> Iterator[slice]:
    """Slices that cover this many entries.

    What goes entry by entry over all members then needs little memory, however large the tensor.
    """
    step = 1 << 18
    return (slice(start, start + step) for start in range(0, entries, step))
