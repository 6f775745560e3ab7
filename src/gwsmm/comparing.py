"""From members to distances: what each strategy compares, and how far apart the items are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gwsmm.artefact import Artefact, Member
from gwsmm.distance.distance import Distance
from gwsmm.distance.pairwise import Pairwise, load_distances
from gwsmm.distance.stability import Halving, load_stability
from gwsmm.distance.subjects import (
    CloudOf,
    CloudWithEmbeddingOf,
    CloudWithLabelsOf,
    LabelsOf,
    Subject,
    WeightsOf,
)
from gwsmm.experiment import Experiment
from gwsmm.features import (
    Extraction,
    Reading,
    common_readings,
    own_readings,
    own_responses,
    pretrained_readings,
)
from gwsmm.types import Distances


def measured(x: Experiment, members: Sequence[Member]) -> Distances:
    """The distances between all items, and how stable they are."""
    subjects = compared(x, members)
    found, halves = matrix(x, x.distance, members, subjects), halved(x, subjects)
    return replace(found, halves=load_stability(halves) if halves else None)


def matrix(
    x: Experiment,
    distance: Distance[Any, Any],
    members: Sequence[Member],
    subjects: Sequence[Subject],
) -> Distances:
    """A distance between all items, each given as what the distance compares."""
    made = x.kept.once(Pairwise(distance=distance), subjects, x.execute)
    names = [member.item.name for member in members]
    return load_distances(names, made, distance)


def compared(x: Experiment, members: Sequence[Member]) -> list[Subject]:
    """What the distance is given for each item."""
    compares = x.distance.compares
    if compares == "weights":
        return [WeightsOf(member, x.encoder) for member in members]
    if compares == "labels":
        return [LabelsOf(member.item) for member in members]
    if compares == "common":
        return [*clouds(x, common_readings(x.features, members), members)]
    own = clouds(x, own_readings(x.features, members), members)
    if compares == "clouds":
        return [*own]
    if compares == "clouds_with_embedding":
        shared = clouds(x, pretrained_readings(x.features, members), members)
        return [CloudWithEmbeddingOf(*pair) for pair in zip(own, shared, strict=True)]
    every = dict.fromkeys(label.name for member in members for label in member.item.labels)
    names = {"clouds_with_label_statistics": None, "clouds_with_label_names": tuple(every)}
    return [
        CloudWithLabelsOf(
            cloud, own_responses(x.features, member), member.item.labels, names[compares]
        )
        for cloud, member in zip(own, members, strict=True)
    ]


def clouds(x: Experiment, readings: Sequence[Reading], members: Sequence[Member]) -> list[CloudOf]:
    """The clouds of these readings, each with the name of the item that it is of."""
    extract = Extraction(
        encoder=x.encoder, vector=x.features.vector, layer=x.features.layer, trainer=x.trainer
    )
    made = x.kept.each(extract, readings, x.execute)
    return [CloudOf(member.item.name, each) for member, each in zip(members, made, strict=True)]


def halved(x: Experiment, subjects: Sequence[Subject]) -> Artefact | None:
    """The distances of disjoint samples, where responses are what is compared."""
    clouds = [each for each in subjects if isinstance(each, CloudOf)]
    if not clouds or not x.stability.repeats or len(clouds) < 3:  # two items have one distance
        return None
    alike = x.distance.compares == "common"
    stage = Halving(distance=x.distance, stability=x.stability, alike=alike)
    return x.kept.once(stage, clouds, x.execute)
