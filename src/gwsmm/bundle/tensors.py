"""The tensors of one part of a model, from the files of a bundle."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Codec, part_of
from gwsmm.bundle.manifest import Part

if TYPE_CHECKING:
    from torch import Tensor


def read_arrays(
    folder: Path, made_of: Part, name: str, codec: Codec | None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """As `read_part`, for numpy; torch is imported only where a private part is to be decoded."""
    if made_of.private is None:
        yield from mapped(folder / made_of.shared[0])
    else:
        for key, tensor in read_part(folder, made_of, name, codec):
            yield key, tensor.float().numpy()


def mapped(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The arrays of a safetensors file, by name.

    What is kept as float32 stays in the file until it is used, which safetensors itself offers for
    torch alone; what takes half the bytes there is widened.
    """
    from safetensors import safe_open

    with safe_open(path, framework="np"):
        pass  # it checks that the header is one, and every place in it within the file
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    content = np.memmap(path, np.uint8, "r", 8 + size)
    for name, said in header.items():
        if name != "__metadata__":
            start, end = said["data_offsets"]
            yield name, _widened(content[start:end], said["dtype"]).reshape(said["shape"])


def _widened(content: NDArray[Any], kind: str) -> NDArray[np.float32]:
    if kind == "BF16":  # the upper half of a float32
        wide: NDArray[np.float32] = (content.view("<u2").astype("<u4") << 16).view("<f4")
        return wide
    return content.view({"F32": "<f4", "F16": "<f2"}[kind]).astype(np.float32, copy=False)


def read_part(
    folder: Path, made_of: Part, name: str, codec: Codec | None
) -> "Iterator[tuple[str, Tensor]]":
    """The tensors of a trunk or a pooler, by name.

    Plain ones are mapped from their file, which takes memory only for what is used of them. Coded
    ones are decoded one by one, so that beside the result there is never more than one of a base.

    Args:
        folder: of the bundle.
        made_of: the files.
        name: `trunk` or `pooler`.
        codec: decodes a private part.

    Raises:
        ValueError: there is a private part and nothing that decodes it.
    """
    from safetensors.torch import load_file

    if made_of.private is None:
        yield from load_file(folder / made_of.shared[0]).items()
        return
    if codec is None:
        raise ValueError(f"{made_of.private} is coded and the manifest names no codec")
    code: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in part_of(load_file(folder / made_of.private), name).items():
        code[key.partition(":")[0]][key] = tensor
    for own, bases in _one_by_one([folder / path for path in made_of.shared]):
        yield from codec.decode(code[own], [{own: base} for base in bases]).items()


def _one_by_one(paths: Sequence[Path]) -> "Iterator[tuple[str, list[Tensor]]]":
    """Every tensor's name with what each file holds of it.

    The files are opened anew for every tensor, which gives back the memory of the last one.
    """
    from safetensors import safe_open

    def tensor(path: Path, name: str) -> "Tensor":
        with safe_open(path, framework="pt") as file:
            found: Tensor = file.get_tensor(name)
        return found

    with safe_open(paths[0], framework="pt") as first:
        names = list(first.keys())
    for name in names:
        yield name, [tensor(path, name) for path in paths]
