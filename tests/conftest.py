"""What the tests share: every strategy that `conf/` holds, a tiny encoder, items and members.

A test that asks for `any_GROUP` runs once for every yaml in `conf/GROUP`, so a new strategy is
tested when its file arrives.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from gwsmm.artefact import Artefact, Member
from gwsmm.encoder import Encoder
from gwsmm.execute import Serial
from gwsmm.merge.learning import LearnedMerge
from gwsmm.recipe import Trainer
from gwsmm.store import Key, Stage, Store
from gwsmm.types import Item, Label, Responses

CONF = Path(__file__).parents[1] / "conf"
ANY = "any_"
LEARNED = "_learned"  # `any_merge_learned`: the merges that need data; `any_merge`: the others
FILLER = (
    "the",
    "model",
    "shows",
    "that",
    "a",
    "particle",
    "in",
    "this",
    "drawing",
    "moves",
    "again",
)


@cache
def build(group: str, *overrides: str) -> object:
    """The object that `conf/` describes for this group, with every default filled in."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    return instantiate(config[group], _convert_="all")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture in metafunc.fixturenames:
        if fixture.startswith(ANY):
            group = fixture.removeprefix(ANY).removesuffix(LEARNED)
            names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
            assert names, f"conf/{group} holds no strategy"
            built = {name: build(group, f"{group}={name}") for name in names}
            if group == "merge":
                learned = fixture.endswith(LEARNED)
                built = {
                    name: each
                    for name, each in built.items()
                    if isinstance(each, LearnedMerge) == learned
                }
            metafunc.parametrize(fixture, built.values(), ids=built)


@pytest.fixture(scope="session")
def configured() -> Callable[..., object]:
    """One group of a configuration: `configured("merge", "merge=ties", "merge.scale=2")`."""
    return build


@pytest.fixture(scope="session")
def tiny() -> Encoder:
    return build("encoder", "encoder=tiny")


@pytest.fixture(scope="session")
def cpu() -> Trainer:
    return Trainer(accelerator="cpu", devices=1, strategy="auto")


def _responses(n: int, words: tuple[str, ...], random: np.random.Generator) -> Responses:
    labels = (random.random((n, len(words))) < 0.5).astype(np.uint8)
    texts = []
    for row in labels:
        said = list(random.choice(FILLER, random.integers(3, 12)))
        for word, present in zip(words, row, strict=True):
            if present:
                said.insert(random.integers(len(said) + 1), word)
        texts.append(" ".join(said))
    return Responses(tuple(texts), labels)


def _item(
    name: str = "item", words: tuple[str, ...] = ("gas", "heat"), n: int = 40, seed: int = 0
) -> Item:
    random = np.random.default_rng(seed)
    train, validation, test = (_responses(size, words, random) for size in (n, 30, 20))
    labels = tuple(Label(f"E{i + 1}") for i in range(len(words)))
    return Item(name, labels, "multilabel", train=train, validation=validation, test=test)


@pytest.fixture(scope="session")
def make_item() -> Callable[..., Item]:
    """An item whose label i is 1 exactly where the response holds word i."""
    return _item


@pytest.fixture(scope="session")
def carry_out() -> Callable[..., Artefact]:
    """The result of one stage for one subject, through a store in this folder."""

    def carried(stage: Stage, subject: object, folder: Path) -> Artefact:
        return Store(folder).each(stage, [subject], Serial(threads=1))[0]

    return carried


@pytest.fixture(scope="session")
def make_member() -> Callable[..., Member]:
    """An item's member as if fine-tuned: the pretrained weights with some noise, on disk."""

    def make(encoder: Encoder, item: Item, folder: Path, seed: int, noise: float = 0.1) -> Member:
        import torch
        from safetensors.torch import save_file

        def write(result: Path) -> None:
            torch.manual_seed(seed)
            network = encoder.network(len(item.labels))
            for part in ("trunk", "pooler", "head"):
                state = network.part_state(part)
                moved = {k: v + noise * torch.randn_like(v) for k, v in state.items()}
                if moved:
                    save_file(moved, result / f"{part}.safetensors")

        key = f"{item.name}-{seed}-{noise}-{encoder.digest[:8]}"
        return Member(item.without_test(), Store(folder).fetch("finetune", Key(key), write))

    return make
