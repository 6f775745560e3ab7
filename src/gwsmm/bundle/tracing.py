"""Writes the graph of an encoder, by which a bundle is scored without torch."""

import warnings
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from gwsmm.bundle.running import IDS, MASK
from gwsmm.encoder import Encoder
from gwsmm.network import Network, pad, pool

_OPSET = 17  # the first with layer normalisation
_LIKE = ("A response that is longer than the other one.", "Another.")  # so that padding is traced
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError)


class _Vector(nn.Module):
    """The vectors before the pooler; its tensors are named `trunk.…`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.trunk, self.pooling = network.trunk, network.pooling

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.trunk(input_ids=ids, attention_mask=mask).last_hidden_state
        return pool(hidden, mask, self.pooling)


def write_graph(encoder: Encoder, path: Path) -> str | None:
    """Write, as ONNX, how token ids and the trunk's tensors make one vector per response.

    The tensors are inputs like the token ids, so that one graph without weights serves all trunks.

    Args:
        encoder: its architecture and tokenizer.
        path: file to be written.

    Returns:
        Why there is no such graph of this architecture; None where it was written.
    """
    network = encoder.unfilled(labels=1).eval()
    example = pad(encoder.tokenize(_LIKE), encoder.padding)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            for number, tensor in enumerate(network.parameters(), start=1):
                tensor.fill_(1 / number)  # the exporter makes one input of equal tensors
            warnings.simplefilter("ignore")  # of what tracing may miss; the bundle is checked
            torch.onnx.export(
                _Vector(network),
                cast(tuple[Tensor, ...], example),
                str(path),
                input_names=[IDS, MASK],
                output_names=["vectors"],
                dynamic_axes={name: {0: "responses", 1: "tokens"} for name in (IDS, MASK)},
                export_params=False,
                do_constant_folding=False,
                opset_version=_OPSET,
                # The other exporter wants further packages and writes where it was run.
                dynamo=False,
            )
    except _FAILURES as error:
        path.unlink(missing_ok=True)
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None
