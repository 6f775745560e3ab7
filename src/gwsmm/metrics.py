"""The paper's four metrics, defined as its authors computed them, by torchmetrics."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """How well one item, or a set of items, is scored.

    Attributes:
        micro_f1: F1 of all label decisions taken together.
        macro_f1: mean over labels of F1; a label that is neither predicted nor true counts as 0.
        exact_match: share of responses whose whole label vector is right.
        label_accuracy: share of right decisions among all responses and labels.
        responses: how many responses were scored.
    """

    micro_f1: float
    macro_f1: float
    exact_match: float
    label_accuracy: float
    responses: int

    def as_dict(self) -> dict[str, float]:
        """The values by name."""
        return asdict(self)


METRICS = ("micro_f1", "macro_f1", "exact_match", "label_accuracy")


def score(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> Scores:
    """The four metrics of one item.

    Args:
        truth: [n, L] of 0 and 1, n and L at least 1.
        predicted: [n, L] of 0 and 1.
    """
    import torch
    from torchmetrics.functional.classification import (
        binary_accuracy,
        binary_f1_score,
        multilabel_exact_match,
    )

    y = torch.from_numpy(truth.astype(np.int64))
    p = torch.from_numpy(predicted.astype(np.int64))
    by_label = [binary_f1_score(p[:, i], y[:, i]) for i in range(y.shape[1])]
    # torchmetrics wants two labels or more; a second label that is always right changes no match.
    constant = torch.zeros((len(y), 1), dtype=torch.int64)
    exact = multilabel_exact_match(
        torch.cat([p, constant], 1), torch.cat([y, constant], 1), num_labels=y.shape[1] + 1
    )
    return Scores(
        micro_f1=float(binary_f1_score(p.flatten(), y.flatten())),
        macro_f1=float(torch.stack(by_label).double().mean()),
        exact_match=float(exact),
        label_accuracy=float(binary_accuracy(p.flatten(), y.flatten())),
        responses=len(y),
    )


@dataclass(frozen=True)
class Calibration:
    """How good an item's probabilities are.

    Attributes:
        nll: negative log-likelihood, mean over responses and labels.
        ece: expected calibration error over all responses and labels, in 15 bins of equal width.
    """

    nll: float
    ece: float


def calibration(truth: NDArray[np.uint8], logits: NDArray[np.float32]) -> Calibration:
    """Of one item: truth [n, L] of 0 and 1, and logits [n, L]."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits
    from torchmetrics.functional.classification import binary_calibration_error

    z = torch.from_numpy(logits).double().flatten()
    y = torch.from_numpy(truth.astype(np.int64)).flatten()
    return Calibration(
        nll=float(binary_cross_entropy_with_logits(z, y.double())),
        ece=float(binary_calibration_error(z.sigmoid(), y, n_bins=15)),
    )


def overall(scores: Sequence[Scores]) -> Scores:
    """The mean over items, weighted by their responses, as in the paper's tables."""
    weights = [each.responses for each in scores]
    means = {
        name: float(np.average([getattr(each, name) for each in scores], weights=weights))
        for name in METRICS
    }
    return Scores(**means, responses=sum(weights))
