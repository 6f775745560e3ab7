"""The graph of an encoder: every architecture's vectors without torch, as torch gives them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_encoder import ARCHITECTURES, TEXTS, checkpoints, encoder_of

from gwsmm.batching import Most
from gwsmm.bundle.manifest import Part
from gwsmm.bundle.running import ENCODER, GRAPH, Graph, Torch
from gwsmm.bundle.tensors import mapped
from gwsmm.bundle.tracing import write_graph
from gwsmm.encoder import Encoder

__all__ = ["checkpoints"]  # a fixture
TRUNK = Part(shared=("trunk.safetensors",), private=None)
MANY = [*TEXTS, "", "sugar", " ".join(["balloons are unbelievable"] * 40), "Ärger, 水 & 🙂!"]


def runners(encoder: Encoder, folder: Path) -> tuple[Graph, Torch]:
    """Both ways to run an encoder that is written as in a bundle."""
    (folder / ENCODER).mkdir()
    encoder.write_architecture(folder / ENCODER)
    save_file(encoder.network(labels=1).part_state("trunk"), folder / "trunk.safetensors")
    bare = encoder_of(folder / ENCODER, random={}, pooling=encoder.pooling, pooler=encoder.pooler)
    assert write_graph(bare, folder / GRAPH) is None
    return Graph(folder, bare.max_length, None), Torch(folder, bare, "cpu", None)


@pytest.mark.parametrize(
    ("architecture", "pooling"), [("bert", "cls"), *((name, "mean") for name in ARCHITECTURES)]
)
def test_the_graph_gives_the_vectors_of_the_network(checkpoints, tmp_path, architecture, pooling):
    encoder = encoder_of(checkpoints / architecture, pooling=pooling)
    graph, network = runners(encoder, tmp_path)
    ids = graph.tokenize(MANY)
    assert ids == network.tokenize(MANY)
    assert max(map(len, ids)) == encoder.max_length
    for most in (Most(), Most(3, 64), Most(1)):
        found, wanted = (
            each.vectors(TRUNK, ids, most, lambda _: None) for each in (graph, network)
        )
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
    inputs = {each.name for each in graph._session.get_inputs()}
    assert inputs == {
        "ids",
        "mask",
        *(f"trunk.{name}" for name, _ in mapped(tmp_path / TRUNK.shared[0])),
    }
    content = (tmp_path / GRAPH).read_bytes()
    assert b".py" not in content  # nor where it was made
    assert len(content) < 1e6  # no weights


def test_a_graph_that_fails_says_so_once(checkpoints, tmp_path, capfd):
    graph, _ = runners(encoder_of(checkpoints / "bert"), tmp_path)
    with pytest.raises(RuntimeError, match=r"^encoder/graph\.onnx: .*out of data bounds"):
        graph.vectors(TRUNK, [[10**6]], Most(), lambda _: None)
    (tmp_path / GRAPH).write_bytes(b"no graph")
    with pytest.raises(RuntimeError, match=r"^encoder/graph\.onnx: "):
        Graph(tmp_path, 8, None).vectors(TRUNK, [[1]], Most(), lambda _: None)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_arrays_are_the_tensors_of_the_file(tmp_path, kind):
    random = torch.Generator().manual_seed(0)
    state = {"a": torch.randn(3, 5, generator=random), "b": torch.tensor([-1e-30, 3e4])}
    save_file({name: v.to(kind) for name, v in state.items()}, tmp_path / "x.safetensors")
    wanted, found = load_file(tmp_path / "x.safetensors"), dict(mapped(tmp_path / "x.safetensors"))
    assert list(found) == list(wanted)
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, wanted[name].float().numpy())
