"""An experiment that computes nothing and writes nothing, and notes what it was asked for.

The key of a result is made of the keys of its inputs. So what is not there can be named all the
same, and only what has to be read cannot be known before it is.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NoReturn, Protocol, Self, TypeVar, cast, runtime_checkable

from gwsmm.artefact import Absent, Artefact
from gwsmm.disk import locate
from gwsmm.execute import Execute
from gwsmm.experiment import Experiment
from gwsmm.remote import Remote
from gwsmm.store import JointStage, Stage, Store, identity, key_of
from gwsmm.types import Distances, InputError

Subject = TypeVar("Subject")
Subject_contra = TypeVar("Subject_contra", contravariant=True)
_QUESTIONS = 8  # to a remote at once


@runtime_checkable
class Solves(Protocol[Subject_contra]):
    """A stage that solves for distances."""

    def pairs(self, subject: Subject_contra) -> int:
        """How many pairs are solved for a subject; a distance that screens solves fewer."""


@dataclass(frozen=True)
class Asked:
    """A result that an experiment asks for.

    Attributes:
        store: that is asked.
        stage: that makes it.
        settings: identity of the stage.
        digest: the key.
        there: whether it need not be computed.
        stays: whether it is kept once it is there.
        pairs: that are solved for it, at most.
        workers: results of this stage that are computed at the same time.
    """

    store: Path
    stage: str
    settings: object
    digest: str
    there: bool
    stays: bool
    pairs: int
    workers: int


@dataclass(frozen=True)
class DryStore(Store):
    """A store that gives out what is there, and names what is not.

    Attributes:
        asked: everything that was asked for, by its folder, in this order.
        passes: whether nothing stays that is asked for through this object; see `Store.passing`.
    """

    asked: dict[Path, Asked] = field(default_factory=dict, compare=False, repr=False)
    passes: bool = False

    def each(
        self, stage: Stage[Subject], subjects: Sequence[Subject], execute: Execute
    ) -> list[Artefact]:
        """The results of `stage`, there or not; see `Store`."""
        return self._ask(stage, subjects, execute.workers)

    def once(self, stage: JointStage[Subject], subject: Subject, execute: Execute) -> Artefact:
        """The result of a stage that spreads its work itself, there or not; see `Store`."""
        return self._ask(stage, [subject], 1)[0]

    @contextmanager
    def passing(self) -> Iterator[Store]:
        """The same, of which nothing would stay; see `Store`."""
        yield replace(self, passes=self.remote is None)

    def holds(self, stage: str, digest: str) -> bool:
        """Whether the result is here or at the remote, where it stays; see `Store`."""
        if super().holds(stage, digest):
            return True
        return self.remote is not None and self.remote.holds(f"{stage}/{digest}")

    def _ask(
        self, stage: Stage[Subject] | JointStage[Subject], subjects: Sequence[Subject], workers: int
    ) -> list[Artefact]:
        digests = [key_of(stage, subject).digest for subject in subjects]
        with ThreadPoolExecutor(_QUESTIONS) as pool:
            there = list(pool.map(partial(self.holds, stage.stage), digests))
        found: list[Artefact] = [_Untouched(self._folder(stage.stage, d), d) for d in digests]
        for subject, made, it_is in zip(subjects, found, there, strict=True):
            if self.passes and made.path in self.asked:  # it stays, or was asked for before
                continue
            self.asked[made.path] = Asked(
                store=self.root,
                stage=stage.stage,
                settings=identity(stage),
                digest=made.digest,
                there=it_is and not self.passes,
                stays=not self.passes,
                pairs=stage.pairs(subject) if isinstance(stage, Solves) else 0,
                workers=workers,
            )
        return found


class _Untouched(Artefact):
    """A result that stays where it is, damaged or not."""

    def _set_aside(self, path: Path) -> InputError:
        return InputError(
            f"{path}: this is not what was written there (disk fault or edited by hand); a run "
            "sets the result aside, and computes it anew when it is started once more"
        )


class DryExperiment(Experiment):
    """The same choices over a `DryStore`."""

    @classmethod
    def of(cls, x: Experiment) -> Self:
        """This experiment, to be asked what it would compute."""
        return cls(**{each.name: getattr(x, each.name) for each in fields(x)})

    @cached_property
    def kept(self) -> DryStore:
        """Computes nothing; see `Experiment`."""
        remote = None if self.remote is None else Remote(self.remote)
        return DryStore(locate(self.store, "store"), remote)


class _Unmeasured:
    """Distances of which nothing but the items is known yet."""

    def __init__(self, names: Sequence[str], absent: Absent) -> None:
        self.names = tuple(names)
        self._absent = absent

    def __getattr__(self, name: str) -> NoReturn:
        raise self._absent


def unmeasured(names: Sequence[str], absent: Absent) -> Distances:
    """The distances between these items, for who does not look at them; raises `absent` if any."""
    return cast(Distances, _Unmeasured(names, absent))


@dataclass(frozen=True)
class Forecast:
    """What a run would ask for.

    Attributes:
        asked: as far as that can be said.
        waits: what has to be there before the plan, and what follows from it, is known; None: all
            is known.
    """

    asked: Sequence[Asked]
    waits: str | None
