"""The linear algebra of merges that look at a task vector as a matrix."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gwsmm.merge.stored import Reader, Tensors

if TYPE_CHECKING:
    from torch import Tensor


def is_matrix(name: str, tensor: "Tensor") -> bool:
    """Whether the tensor is the weight of a linear layer, which maps inputs to outputs.

    Embeddings are tables of vectors: no input is multiplied with them.
    """
    return tensor.ndim == 2 and "embed" not in name


def task_matrices(base: "Tensor", members: Sequence["Tensor"]) -> Tensors:
    """τ_i = θ_i − θ_base in double precision, which keeps small singular values apart.

    Each is computed whenever it is asked for.
    """
    start = base.flatten()

    def reader(read: Reader) -> Reader:
        return lambda at: read(at).double() - start[at].double()

    return Tensors(base.shape, [reader(read) for read in Tensors.of(members).readers])


def summed(tensors: Tensors) -> "Tensor":
    """Their sum, as one that has all of them in memory rounds it."""
    import torch

    return torch.cat([torch.stack(here).sum(0) for _, here in tensors.pieces()]).view(tensors.shape)


def task_mean(base: "Tensor", members: Sequence["Tensor"]) -> "Tensor":
    """The mean task vector, accumulated in fp32 with one member in memory at a time."""
    import torch

    origin = base.float()
    total = torch.zeros_like(origin)
    for member in members:
        total += member.float() - origin
    return total / len(members)


def noise(weights: "Tensor") -> float:
    """The largest norm of what rounding to fp32 has changed of weights and their task matrix.

    It has the scale of the weights, which are many times as long as what fine-tuning adds to them.
    """
    import torch

    return torch.finfo(torch.float32).eps * float(weights.double().norm())


def svd(matrix: "Tensor", rounding: float) -> tuple["Tensor", "Tensor", "Tensor"]:
    """U, σ, Vᵀ of those directions that are more than rounding; there may be none.

    The other directions are whatever the solver makes of rounding, so nothing may depend on them.
    From the eigenvectors of the smaller Gram matrix, in a third to two thirds of the time: that
    loses what is below 1e-8 of the largest singular value, which rounding to fp32 lost before.

    Args:
        matrix: to be decomposed, in double precision.
        rounding: the largest singular value that it can account for; see `noise`.
    """
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        u, s, vh = svd(matrix.T, rounding)
        return vh.T, s, u.T
    squares, u = torch.linalg.eigh(matrix @ matrix.T)  # the smallest first
    s = squares.flip(0).clamp(min=0).sqrt()
    s = s[s > rounding]
    u = u.flip(1)[:, : len(s)]
    return u, s, u.T @ matrix / s.unsqueeze(1)


def orthogonal(matrix: "Tensor") -> "Tensor":
    """U Vᵀ of the matrix: the orthonormal columns, or rows, nearest to it (Procrustes)."""
    u, _, vh = svd(matrix, noise(matrix))
    return u @ vh


def effective_rank(matrix: "Tensor") -> float:
    """exp(−Σ p log p) with p = σ / Σσ: how many directions share the matrix; 0 of a zero matrix.

    From the eigenvalues of the smaller Gram matrix, which costs a fraction of the singular values.

    Source: Roy & Vetterli (2007), "The effective rank".
    """
    import torch

    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    s = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0).sqrt()
    if s.sum() == 0:
        return 0.0
    return float(torch.special.entr(s / s.sum()).sum().exp())
