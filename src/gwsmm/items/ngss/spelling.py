"""How students spell: a rate of slips per word, drawn by rule."""

from collections.abc import Mapping, Sequence

from gwsmm.items.ngss.grammar import Dice

PUNCTUATION = ".,;:!?"


def misspell(text: str, rate: float, spelling: Mapping[str, Sequence[str]], dice: Dice) -> str:
    """The text with about `rate` slips per word: a usual misspelling, else a slip of the keys."""
    words = text.split(" ")
    for _ in range(int(rate * len(words) + dice.roll())):
        at = int(dice.roll() * len(words))
        word = words[at].rstrip(PUNCTUATION)
        tail = words[at][len(word) :]
        if word.lower() in spelling:
            words[at] = _like(word, dice.pick(spelling[word.lower()])) + tail
        elif len(word) > 3 and word.isalpha():
            words[at] = _slip(word, dice) + tail
    return " ".join(words)


def _like(word: str, other: str) -> str:
    return other.capitalize() if word[0].isupper() else other


def _slip(word: str, dice: Dice) -> str:
    """The word with two letters swapped, one dropped or one doubled; the first letter stays."""
    i = 1 + int(dice.roll() * (len(word) - 2))
    pair = word[i : i + 2]
    return word[:i] + dice.pick((pair[::-1], pair[1], pair[0] + pair)) + word[i + 2 :]
