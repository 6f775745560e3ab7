"""Linear layers as regressions: what they are given, and one weight for the inputs of many."""

import re
from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gwsmm.network import Network, infer, pad

_ROWS = 1 << 11  # inputs that are taken at once, in fp64: all of a batch would be as much again
_HELD = 3 << 26  # bytes of sums at once, as `RegressionMean` and `second_moments` have; or a stage
_STAGE = re.compile(r"^.*?\.\d+(?=\.)")  # `trunk.encoder.layer.3` of all that is in that layer


class RegressionMean:
    """argmin over W of Σ_i tr((W − W_i) G_i (W − W_i)ᵀ), of all such W the nearest to a start.

    With G_i = X_iᵀ X_i the sum is Σ ‖X_i Wᵀ − X_i W_iᵀ‖². Takes one member after the other, and
    keeps two sums. Where all W_i equal the start it is given back to the last bit; where the G_i
    tell nothing, as of inputs that are always zero, the start stays.

    Args:
        start: [out, in], the mean of the W_i.
        device: to compute on.
    """

    def __init__(self, start: Tensor, device: str) -> None:
        self._start = start.to(device)
        self._pull = torch.zeros_like(self._start, dtype=torch.float64)
        self._total = self._pull.new_zeros(start.shape[1], start.shape[1])

    def add(self, weight: Tensor, gram: Tensor) -> None:
        """Take in a member's weight [out, in] and the Gram matrix [in, in] of its inputs."""
        gram = gram.to(self._total)
        self._pull += (weight.to(self._pull) - self._start.double()) @ gram
        self._total += gram

    def solve(self) -> Tensor:
        """[out, in], in the dtype of the start, on the CPU."""
        # A few inputs of every encoder are far larger than all others: measured in units of their
        # own size, they do not make the directions of the others look like rounding.
        size = self._total.diagonal().clamp(min=0).sqrt()
        size = torch.where(size > 0, size, torch.ones_like(size))
        scaled = self._total / size / size[:, None]
        cutoff = torch.finfo(torch.float32).eps  # what activations in fp32 can tell from nothing
        inverse = torch.linalg.pinv(scaled, hermitian=True, rtol=cutoff)
        moved: Tensor = self._start.double() + (self._pull / size) @ inverse / size
        return moved.to(self._start.dtype).cpu()


def shrink(gram: Tensor, alpha: float) -> None:
    """Scale all of a Gram matrix but its diagonal by `alpha`, in place."""
    diagonal = gram.diagonal().clone()
    gram *= alpha
    gram.diagonal().add_((1 - alpha) * diagonal)


class Stage(NamedTuple):
    """The linear layers of one transformer layer, or one that is in none.

    Attributes:
        prefix: of the names of all its tensors.
        layers: names of the modules, in the order in which they are reached.
        until: the first linear module above; None: there is none.
    """

    prefix: str
    layers: list[str]
    until: str | None = None


def linear_layers(network: Network, shared: Container[str]) -> list[str]:
    """The names of the linear layers whose weights are among the shared tensors."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in shared
    ]


@torch.no_grad()
def stages(network: Network, layers: Sequence[str], ids: Sequence[int]) -> list[Stage]:
    """The linear layers stage by stage, in the order in which a response reaches them."""
    found: dict[str, Stage] = {}

    def reach(name: str, inputs: Tensor) -> None:
        inside = _STAGE.match(name)
        prefix = f"{inside[0] if inside else name}."
        stage = found.setdefault(prefix, Stage(prefix, []))
        if name not in stage.layers:
            stage.layers.append(name)

    device = next(network.parameters()).device
    tokens, mask = pad([ids], 0)
    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(_before(network, name, reach))
        network.represent(tokens.to(device), mask.to(device))
    order = list(found.values())
    above = [stage.layers[0] for stage in order[1:]] + [None]
    return [stage._replace(until=until) for stage, until in zip(order, above, strict=True)]


class Part(NamedTuple):
    """Stages that follow one another.

    Attributes:
        layers: names of their linear modules.
        until: as of the last of them.
    """

    layers: list[str]
    until: str | None


def parts(network: Network, order: Sequence[Stage]) -> list[Part]:
    """The stages in parts whose sums fit into memory beside an encoder, whatever its depth."""
    found: list[Part] = []
    held = 0
    for stage in order:
        weights = [network.get_parameter(f"{name}.weight") for name in stage.layers]
        needs = sum(8 * (2 * w.shape[1] ** 2 + w.numel()) for w in weights)
        if found and held + needs <= _HELD:
            found[-1] = Part(found[-1].layers + stage.layers, stage.until)
            held += needs
        else:
            found.append(Part(stage.layers, stage.until))
            held = needs
    return found


def second_moments(
    network: Network,
    layers: Sequence[str],
    ids: Sequence[Sequence[int]],
    filler: int,
    *,
    until: str | None = None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Tensor]:
    """By layer X ᵀX / n [in, in] over the n tokens that it is given in these responses, in fp64.

    Padding is left out. What belongs to no token, such as DeBERTa's relative positions, counts as
    often as the layer is given it. A layer that is given nothing has zeros.

    Args:
        network: in evaluation mode.
        layers: names of linear modules.
        ids: token ids of each response.
        filler: the token id that fills a batch.
        until: name of the module before which every response stops; None: they go to the top.
        tick: takes the fraction that is done.
    """
    now = torch.zeros(0, 0)  # the mask of the batch that is on its way
    sums = {name: _square(network, name) for name in layers}
    seen = dict.fromkeys(layers, 0)

    def look(name: str, inputs: Tensor) -> None:
        rows, of_tokens = inputs.flatten(end_dim=-2), _of_tokens(inputs, now)
        for some in torch.split(of_tokens, _ROWS):
            chosen = rows[some].double()
            sums[name].addmm_(chosen.T, chosen)
        seen[name] += len(of_tokens)

    def read(tokens: Tensor, mask: Tensor) -> Tensor:
        nonlocal now
        now = mask
        with suppress(_Reached):
            network.represent(tokens, mask)
        return torch.zeros(len(tokens), 0)

    with ExitStack() as hooks:
        if until is not None:  # before `look`, for a layer may be asked for and be this one
            hooks.enter_context(_before(network, until, _stop))
        for name in layers:
            hooks.enter_context(_before(network, name, look))
        infer(network, ids, filler, read, tick)
    for name, gram in sums.items():
        gram /= max(seen[name], 1)
    return sums


class _Reached(Exception):
    """A response has come as far as it is followed."""


def _stop(name: str, inputs: Tensor) -> None:
    raise _Reached


def _before(network: Network, name: str, look: Callable[[str, Tensor], None]) -> RemovableHandle:
    """Tell `look` the module's name and its input before it is run, while the handle is open."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        look(name, inputs[0])

    return network.get_submodule(name).register_forward_pre_hook(hook)


def _square(network: Network, name: str) -> Tensor:
    """Zeros [in, in] for a linear layer."""
    weight = network.get_parameter(f"{name}.weight")
    return weight.new_zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)


def _of_tokens(inputs: Tensor, mask: Tensor) -> Tensor:
    """Which rows of [b, t, d] are no padding; of other shapes, such as [b, d], all rows."""
    if inputs.ndim == 3 and inputs.shape[:2] == mask.shape:
        return mask.flatten().nonzero()[:, 0]
    return torch.arange(inputs.shape[:-1].numel(), device=inputs.device)
