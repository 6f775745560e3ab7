"""What an item's tensors are beyond shared ones, Δ = θ_i − θ_base, in few bytes.

A code holds fields of tensors under `NAME:FIELD`; a tensor that did not move has none.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gwsmm.artefact import State

if TYPE_CHECKING:
    from torch import Tensor

Still = Annotated[float, Field(ge=0, lt=1)]
"""Rows whose norm is at most this share of the tensor's largest row's have not moved.

Of an embedding table, fine-tuning moves only the rows of tokens that occur, and decays the others a
little: of MiniLM's 30,522 about 1,000 hold 99.9 % of ‖Δ‖². Nor have rows moved, whatever the share,
that are no farther from the base's than rounding to its number type may have taken these.
"""

HALF = 16
"""Bits of a number that is kept in fp16."""

Bits = Annotated[int, Field(ge=2, le=HALF)]

Encode = Callable[[str, "Tensor", "Tensor"], State]
"""Fields of a matrix: of its name, which rows moved [M], and Δ of these rows [m, n]."""

Decode = Callable[[str, "Tensor", State], "Tensor"]
"""Δ of the rows that moved [m, n]: of a matrix's name, which rows these are [M], and its fields."""


def encode_delta(member: State, base: State, still: float, matrix: Encode) -> State:
    """A code of Δ: matrices by `matrix`, norms and biases in fp16."""
    import torch

    code: dict[str, Tensor] = {}
    for name, start in base.items():
        delta = member[name].float() - start.float()
        if not delta.any():
            continue
        fields: dict[str, Tensor] = {}
        if delta.ndim <= 1:
            fields |= to_half("values", delta.flatten())
        else:
            table = delta.flatten(1)
            norms = table.norm(dim=1)
            rounding = torch.finfo(start.dtype).eps / 2 * start.float().flatten(1).norm(dim=1)
            rows = norms > (still * norms.max()).maximum(rounding)
            if not rows.any():
                continue
            if not rows.all():
                fields["rows"] = pack(rows.numpy(), 1)
            fields |= matrix(name, rows, table[rows])
        code |= {f"{name}:{field}": tensor for field, tensor in fields.items()}
    return code


def decode_delta(code: State, base: State, matrix: Decode) -> State:
    """The base plus the Δ of a code; see `encode_delta`."""
    import torch

    fields: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in code.items():
        name, _, field = key.rpartition(":")
        fields[name][field] = tensor
    state = dict(base)
    for name, of in fields.items():
        start = base[name]
        if start.ndim <= 1:
            delta = from_half("values", of).reshape(start.shape)
        else:
            rows = torch.ones(len(start), dtype=torch.bool)
            if "rows" in of:
                rows = torch.from_numpy(unpack(of["rows"], 1, len(start)).astype(bool))
            delta = torch.zeros_like(start, dtype=torch.float32)
            delta[rows] = matrix(name, rows, of).reshape(-1, *start.shape[1:])
        state[name] = (start.float() + delta).to(start.dtype)
    return state


def to_half(field: str, values: "Tensor") -> State:
    """[n, …] in fp16, every column relative to its largest magnitude, which has a field too.

    The entries of Δ are so small that fp16 by itself would keep few of their digits.
    """
    import torch

    largest = values.abs().amax(0)
    scaled = values / torch.where(largest > 0, largest, 1)
    return {field: scaled.half().contiguous(), f"{field}_scale": largest.float()}


def from_half(field: str, fields: State) -> "Tensor":
    """What `to_half` made a field of."""
    return fields[field].float() * fields[f"{field}_scale"]


def to_bits(field: str, values: "Tensor", bits: int) -> State:
    """[n, r] in so many bits, every column relative to its largest magnitude; 16: in fp16."""
    import torch

    if bits == HALF:
        return to_half(field, values)
    largest, most = values.abs().amax(0), 2 ** (bits - 1) - 1
    scaled = values * (most / torch.where(largest > 0, largest, 1))
    whole = (scaled.round() + most).numpy()
    return {field: pack(whole, bits), f"{field}_scale": largest.float()}


def from_bits(field: str, fields: State, bits: int, n: int) -> "Tensor":
    """The n rows that `to_bits` made a field of."""
    import torch

    if bits == HALF:
        return from_half(field, fields)
    scale, most = fields[f"{field}_scale"], 2 ** (bits - 1) - 1
    whole = unpack(fields[field], bits, n * len(scale)).astype("f4").reshape(n, len(scale))
    values: Tensor = (torch.from_numpy(whole) - most) * (scale / most)
    return values


def pack(values: NDArray[Any], bits: int) -> "Tensor":
    """Whole numbers from 0 to 2^bits − 1, in bytes without gaps."""
    import torch

    places = np.arange(bits, dtype=np.uint16)
    binary = (values.reshape(-1, 1).astype(np.uint16) >> places) & 1
    return torch.from_numpy(np.packbits(binary.astype(np.uint8)))


def unpack(packed: "Tensor", bits: int, n: int) -> NDArray[np.uint16]:
    """The n whole numbers that `pack` was given."""
    binary = np.unpackbits(packed.numpy(), count=n * bits).reshape(n, bits)
    values = np.zeros(n, dtype=np.uint16)
    for place in range(bits):
        values |= binary[:, place].astype(np.uint16) << np.uint16(place)
    return values
