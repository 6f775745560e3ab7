"""Takes an item out of a bundle; what only it needed is gone, the rest is as it was."""

from dataclasses import replace
from pathlib import Path

from gwsmm.bundle.changing import read_old, restated, storage_of
from gwsmm.bundle.manifest import Manifest, meant, read_manifest
from gwsmm.bundle.sealing import Content, check_free, making, seal
from gwsmm.types import InputError


def remove_item(folder: Path, name: str, out: Path) -> Manifest:
    """Write the bundle without an item into a new folder; nothing is computed.

    Args:
        folder: the bundle, which stays as it is.
        name: of the item.
        out: the folder to make.

    Returns:
        What the new bundle holds.

    Raises:
        InputError: there is no such item or no other, the folder is no whole bundle, or `out` is
            there or cannot be made.
    """
    check_free(out)
    old = read_old(folder)
    if name not in old.names:
        raise InputError(f"{folder} has no item {name!r}; {meant(name, old.names)}")
    if len(old.names) == 1:
        raise InputError(
            f"{folder} has no other item than {name!r}, and a bundle of none scores nothing: "
            "delete the folder instead"
        )
    items = tuple(item for item in old.manifest.items if item.name != name)
    groups = [tuple(each for each in group if each != name) for group in old.plan.groups]
    plan = replace(old.plan, groups=tuple(filter(None, groups)))
    sizes = {path: file.bytes for path, file in old.manifest.files.items()}
    storage = storage_of(old.results["storage"], old.manifest.items, items, sizes)
    entries = [entry for entry in old.results["items"] if entry["name"] != name]
    content = Content(
        items=items,
        encoder=old.manifest.encoder,
        codec=old.manifest.codec,
        results=restated(old.results, entries, plan, storage),
        added=[each for each in old.added if each["item"] != name],
    )
    with making(out) as part:
        old.keep(items, part)
        seal(part, content)
    return read_manifest(out)
