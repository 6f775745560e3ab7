"""What was prepared of an item, its arrays in a file: so tasks are small, wherever they run."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

_ALIGNED = 64  # bytes, as of arrays in memory


@dataclass(frozen=True)
class Place:
    """Where in the file the numbers of an array are, and how they lie."""

    start: int
    shape: tuple[int, ...]
    kind: np.dtype[Any]
    order: Literal["C", "F"]


@dataclass(frozen=True)
class OnDisk:
    """A prepared item, which a task can carry.

    Attributes:
        name: the item's.
        form: the prepared item, with a `Place` instead of each array.
        file: with the numbers of all arrays; None: there are none.
    """

    name: str
    form: object
    file: Path | None

    def load(self) -> Any:
        """The prepared item; what is not looked at of its arrays, which are read-only, is not read.

        Processes of one machine share the memory of what they read.
        """
        if self.file is None:
            return self.form
        numbers = np.memmap(self.file, np.uint8, "r")

        def array(at: Place) -> NDArray[Any]:
            return np.ndarray(at.shape, at.kind, numbers, at.start, order=at.order)

        return _replaced(self.form, Place, array)


def put_on_disk(name: str, prepared: object, folder: Path) -> OnDisk:
    """Write the arrays of a prepared item into a new file of this folder.

    Arrays are found in dataclasses, dicts, lists and tuples; what else there is stays as it is.
    """
    places = dict[int, Place]()  # one for each array, wherever it is in the item

    def place(array: NDArray[Any]) -> Place:
        if id(array) not in places:
            places[id(array)] = _written(array, file)
        return places[id(array)]

    with NamedTemporaryFile(dir=folder, delete=False) as file:
        form = _replaced(prepared, np.ndarray, place)
    path = folder / Path(file.name).name  # as the folder was given, which may be a relative path
    if places:
        return OnDisk(name, form, path)
    path.unlink()
    return OnDisk(name, form, None)


def _written(array: NDArray[Any], file: IO[bytes]) -> Place:
    order: Literal["C", "F"] = "F" if array.flags.fnc else "C"
    start = file.tell()
    file.write(np.ascontiguousarray(array.T if order == "F" else array).data)
    file.write(bytes(_ALIGNED - file.tell() % _ALIGNED))  # also after an array without any number
    return Place(start, array.shape, array.dtype, order)


def _replaced(form: Any, kind: type[Any], by: Callable[[Any], object]) -> Any:
    """The same with something else in the place of whatever is of this kind."""
    if isinstance(form, kind):
        return by(form)
    if type(form) is dict:
        return {name: _replaced(part, kind, by) for name, part in form.items()}
    if type(form) in (list, tuple):
        return type(form)(_replaced(part, kind, by) for part in form)
    if is_dataclass(form) and not isinstance(form, type):
        parts = {each.name: _replaced(getattr(form, each.name), kind, by) for each in fields(form)}
        return replace(form, **parts)
    return form
