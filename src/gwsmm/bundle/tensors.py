"""The tensors of one part of a model, from the files of a bundle."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gwsmm.artefact import Codec, part_of
from gwsmm.bundle.manifest import Part

if TYPE_CHECKING:
    from torch import Tensor


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
