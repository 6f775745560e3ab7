"""The stage that looks at one group before it is merged."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gwsmm.artefact import Artefact, Member
from gwsmm.asking import logits_of
from gwsmm.encoder import Encoder
from gwsmm.merge.diagnosis import Confidence, confidence, diagnose
from gwsmm.merge.merging import Group, base_state
from gwsmm.merge.stored import Stored
from gwsmm.private.private import Private
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer

FILE = "diagnosis.json"


@dataclass(frozen=True, kw_only=True)
class Diagnosing:
    """The stage: a group → `diagnosis.json`; does not depend on the strategy but for its base."""

    stage: ClassVar[str] = "diagnosis"
    version: ClassVar[int] = 2

    encoder: Encoder
    base: str
    private: Private
    trainer: Trainer

    def __call__(self, subject: Group, folder: Path) -> None:
        """Compare what the members would share, and see how sure their models are.

        Raises:
            InputError: the members' encoders are not alike, or hold what is no number.
        """
        write_fraction(folder, 0.0)
        parts = self.private.shared_parts
        base = base_state(self.base, self.encoder, subject, parts)
        states = {each.item.name: Stored(each, parts) for each in subject.members}
        members = {each.item.name: each for each in subject.members}
        found = diagnose(base, states, lambda name: self._confidence(members[name]))
        (folder / FILE).write_text(found.to_json())

    def _confidence(self, member: Member) -> Confidence:
        item = member.item
        logits = logits_of(self.encoder, member, item.validation.texts, {}, self.trainer.device)
        return confidence(logits.sigmoid().numpy(), item.train.labels)


def load_diagnosis(made: Artefact) -> dict[str, Any]:
    """What `Diagnosing` wrote: the fields of `Diagnosis`."""
    content: dict[str, Any] = json.loads(made.file(FILE).read_text())
    return content
