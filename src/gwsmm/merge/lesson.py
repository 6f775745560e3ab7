"""The responses of a group, and what each one's own encoder makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gwsmm.artefact import Member
from gwsmm.merge.learning import Learners
from gwsmm.merge.student import Seen, student_of
from gwsmm.network import infer
from gwsmm.recipe import Recipe
from gwsmm.scoring import Data


@dataclass(frozen=True)
class Responses:
    """The responses of all members one after the other: first training, then validation.

    Attributes:
        ids: token ids of each of n responses.
        items: [n], the position of each one's item among the members.
        train: how many of them are for training.
    """

    ids: list[list[int]]
    items: Tensor
    train: int

    @classmethod
    def of(cls, learners: Learners) -> "Responses":
        """Those of the learners."""
        splits = [[each.item.train for each in learners.members]]
        splits += [[each.item.validation for each in learners.members]]
        texts = [text for split in splits for each in split for text in each.texts]
        sizes = [len(each) for split in splits for each in split]
        positions = torch.arange(len(learners.members)).repeat(2)
        items = positions.repeat_interleave(torch.tensor(sizes))
        train = sum(len(each) for each in splits[0])
        return cls(learners.encoder.tokenize(texts), items, train)

    def labels(self, learners: Learners) -> Tensor:
        """[n, L] of 0 and 1: the labels of all items side by side, 0 for those of other items."""
        items = [member.item for member in learners.members]
        wanted = torch.zeros(len(self.ids), sum(len(item.labels) for item in items))
        at = 0
        for i, item in enumerate(items):
            both = np.concatenate([item.train.labels, item.validation.labels])
            wanted[self.items == i, at : at + len(item.labels)] = torch.from_numpy(both).float()
            at += len(item.labels)
        return wanted

    def data(self, learners: Learners, recipe: Recipe, seed: int) -> Data:
        """Batches that mix the items; a response's target is its position here."""
        rows = torch.arange(len(self.ids))
        return Data(
            self.ids[: self.train],
            rows[: self.train],
            self.ids[self.train :],
            rows[self.train :],
            filler=learners.encoder.padding,
            batch_size=recipe.batch_size,
            by_length=recipe.by_length,
            seed=seed,
        )


class Lesson(NamedTuple):
    """What each of n responses' own teacher sees in it.

    Attributes:
        items: [n], see `Responses`.
        vectors: [n, K + 1, d], see `Seen`.
        spread: [n, K + 1], the mean squared distance of the teacher's vectors from their mean.
        probabilities: [n, L], zero for labels of other items.
    """

    items: Tensor
    vectors: Tensor
    spread: Tensor
    probabilities: Tensor

    def at(self, rows: Tensor) -> "Lesson":
        """That of these responses, on the device of `rows`."""
        return Lesson(*(table[rows.cpu()].to(rows.device) for table in self))


def taught(learners: Learners, responses: Responses, tick: Callable[[float], None]) -> Lesson:
    """Let every member read its own responses; one of them is in memory at a time."""
    widths = [len(member.item.labels) for member in learners.members]
    probabilities = torch.zeros(len(responses.ids), sum(widths))
    vectors = spread = torch.empty(0)
    for i, member in enumerate(learners.members):
        seen, own = _read(learners, member, responses, i), responses.items == i
        if i == 0:
            vectors = torch.empty(len(own), *seen.vectors.shape[1:])
            spread = torch.empty(vectors.shape[:2])
        vectors[own] = seen.vectors
        spread[own] = (seen.vectors - seen.vectors.mean(0)).square().sum(-1).mean(0)
        at = sum(widths[:i])
        probabilities[own, at : at + widths[i]] = seen.logits.sigmoid()
        tick((i + 1) / len(widths))
    return Lesson(responses.items, vectors, spread, probabilities)


def _read(learners: Learners, member: Member, responses: Responses, i: int) -> Seen:
    teacher = student_of(learners, [member], None)
    labels = len(member.item.labels)

    def look(ids: Tensor, mask: Tensor) -> Tensor:
        seen = teacher(ids, mask, torch.zeros(len(ids), dtype=torch.long, device=ids.device))
        return torch.cat([seen.vectors.flatten(1), seen.logits], 1)

    ids = [responses.ids[row] for row in (responses.items == i).nonzero().flatten().tolist()]
    seen = infer(teacher, ids, learners.encoder.padding, look)
    vectors = seen[:, :-labels].reshape(len(seen), -1, teacher.head.in_features)
    return Seen(vectors, seen[:, -labels:])
