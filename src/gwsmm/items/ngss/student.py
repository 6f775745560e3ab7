"""One student's answer: the ideas that the rubric credits, those that it does not, and the rest."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gwsmm.items.ngss.bank import Bank, Common, Idea, Line
from gwsmm.items.ngss.grammar import Dice, fill
from gwsmm.items.ngss.spelling import misspell

LONGEST_IN_CONTRAST = 15  # words: two longer statements in one sentence are hard to follow
ALONE = ("yes", "no ", "because", "since", "even though", "although")  # these begin a sentence
FIRST_PERSON = re.compile(r"\bi\b")
RUN_ON = (", and ", " and ", " and ", " and ", ", ", ", ", " ", " also ", " plus ")
LAST = (", ", " and ", " ", ". ", ". ", ". ")


@dataclass(frozen=True)
class Voice:
    """How a student writes.

    Attributes:
        talk: how much, 1 on average, at most 3.
        slips: misspellings per word.
        stops: share of sentences that end in a full stop instead of running on.
        lower: writes no capitals.
        bare: leaves apostrophes and the last full stop out.
    """

    talk: float
    slips: float
    stops: float
    lower: bool
    bare: bool


@dataclass(frozen=True)
class Clause:
    """One statement.

    Attributes:
        claim: a reason can follow.
        plain: it can stand after "because".
        loose: not about the question, so no "also" before it.
    """

    text: str
    claim: bool = False
    plain: bool = False
    loose: bool = False


def draw_voice(dice: Dice) -> Voice:
    """A student; the powers are products, since `pow` may differ between platforms."""
    talk, slips = dice.roll(), dice.roll()
    return Voice(
        talk=3 * talk * talk,
        slips=0.14 * slips * slips * slips,
        stops=dice.pick((0.1, 0.5, 0.8, 0.95)),
        lower=dice.roll() < 0.35,
        bare=dice.roll() < 0.4,
    )


def write(bank: Bank, common: Common, truth: Mapping[str, int], dice: Dice) -> str:
    """The answer of a new student who shows exactly the elements that are 1 in `truth`."""
    voice = draw_voice(dice)
    clauses = [
        clause
        for idea in _ordered(bank.ideas, dice)
        for clause in _about(idea, bank, common, truth, voice, dice)
    ]
    if not clauses and dice.roll() < 0.4:
        return _styled(_say(common.blank, truth, dice), voice, common, dice)
    if clauses and dice.roll() < 0.3:
        clauses[0] = _opened(clauses[0], common, truth, dice)
    _pad(clauses, bank, common, truth, voice, dice)
    return _styled(_joined(clauses, voice, dice), voice, common, dice)


def _ordered(ideas: Sequence[Idea], dice: Dice) -> list[Idea]:
    """Most students go by the question; some do not."""
    order = list(ideas)
    if dice.roll() < 0.35:
        dice.shuffle(order)
    return order


def _about(
    idea: Idea, bank: Bank, common: Common, truth: Mapping[str, int], voice: Voice, dice: Dice
) -> list[Clause]:
    """What the student says about one element: at most one statement."""
    if truth[idea.name]:
        own, other = idea.yes, idea.wrong
    elif dice.roll() >= bank.miss * (0.4 + 0.6 * voice.talk):
        return []
    elif dice.roll() < 0.3:
        return [Clause(_say(idea.partial, truth, dice), claim=idea.claim, plain=True)]
    else:
        own, other = idea.wrong, idea.yes
    text = _say(own, truth, dice)
    if dice.roll() < bank.contrast:
        rejected = _say(other, truth, dice)
        if _embeds(text) and _embeds(rejected):
            frame = _say(common.contrast, truth, dice)
            return [Clause(frame.replace("<X>", rejected).replace("<Y>", text))]
    return [Clause(text, claim=idea.claim, plain=True)]


def _embeds(text: str) -> bool:
    """Whether the statement can stand inside another sentence."""
    return len(text.split()) <= LONGEST_IN_CONTRAST and not text.startswith(ALONE)


def _say(lines: Sequence[Line], truth: Mapping[str, int], dice: Dice) -> str:
    """One of the lines that this student can say without contradiction."""
    line = dice.pick(lines)
    while any(truth[name] != value for name, value in line.needs):
        line = dice.pick(lines)
    return fill(line.template, dice)


def _opened(clause: Clause, common: Common, truth: Mapping[str, int], dice: Dice) -> Clause:
    if not clause.plain or clause.text.startswith(("i ", "yes", "no", "if ", "when ")):
        return clause
    return Clause(f"{_say(common.open, truth, dice)} {clause.text}", claim=clause.claim)


def _pad(
    clauses: list[Clause],
    bank: Bank,
    common: Common,
    truth: Mapping[str, int],
    voice: Voice,
    dice: Dice,
) -> None:
    """Add what the rubric does not ask for: the situation, something aside, a last word."""
    count = int(bank.talk * voice.talk + dice.roll())
    if len(clauses) < 2 and dice.roll() < 0.6:
        count += 1  # a lone statement is mostly introduced
    for line in {
        id(line): line for line in (dice.pick(bank.context) for _ in range(count))
    }.values():
        at = 0 if dice.roll() < 0.5 else int(dice.roll() * (len(clauses) + 1))
        clauses.insert(at, Clause(fill(line.template, dice)))
    if not clauses or dice.roll() < 0.1 * voice.talk:
        clauses.append(Clause(_say(common.aside, truth, dice), loose=True))
    if dice.roll() < 0.12:
        clauses.append(Clause(_say(common.close, truth, dice), loose=True))


def _joined(clauses: Sequence[Clause], voice: Voice, dice: Dice) -> str:
    text = clauses[0].text
    for before, after in pairwise(clauses):
        reason = before.claim and after.plain and not after.claim
        if reason and "because" not in before.text + after.text and dice.roll() < 0.5:
            text += dice.pick((" because ", " because ", " since ", ", because ")) + after.text
        elif after.loose:
            text += dice.pick(LAST) + after.text
        elif dice.roll() < voice.stops:
            text += ". " + dice.pick(("", "", "", "", "", "", "", "also ", "and ")) + after.text
        else:
            text += dice.pick(RUN_ON) + after.text
    return text


def _styled(text: str, voice: Voice, common: Common, dice: Dice) -> str:
    """The text with this student's spelling, capitals and stops."""
    text = misspell(text, voice.slips, common.spelling, dice)
    if voice.bare:
        text = text.replace("'", "")
    elif text[-1].isalnum():
        text += "."
    if voice.lower:
        return text.lower()
    text = FIRST_PERSON.sub("I", text)
    return ". ".join(part[:1].upper() + part[1:] for part in text.split(". "))
