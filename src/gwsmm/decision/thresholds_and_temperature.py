"""One threshold per label and one temperature per item, each found as if there were no other."""

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.decision.rule import Rule, Validated
from gwsmm.decision.temperature import Temperature
from gwsmm.decision.thresholds import Thresholds
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ThresholdsAndTemperature:
    """t_l of `Thresholds` and T of `Temperature`: 1[σ(z_l) > t_l] is decided, σ(z_l/T) reported.

    Thresholds are of the probabilities at temperature 1, so that neither changes the other. A
    label that is given can therefore have a reported probability below its threshold.

    Needs validation responses, no gradients. Choose it where macro F1 counts and the probabilities
    are used, too.

    Attributes:
        prior: as of `Thresholds`.
        limit: as of `Temperature`.

    Source: see these two.
    """

    fitted: ClassVar[bool] = True

    prior: Annotated[float, Field(ge=0)]
    limit: Annotated[float, Field(gt=1)]

    def __call__(self, validated: Validated) -> Rule:
        """The thresholds and the temperature."""
        thresholds = Thresholds(prior=self.prior)(validated).thresholds
        return Rule(Temperature(limit=self.limit)(validated).temperature, thresholds)
