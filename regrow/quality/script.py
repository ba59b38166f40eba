"""Whether a response left the script of its question: a Latin question answered in Cyrillic or Chinese.

Letters are counted by Unicode script. What a formula is written in is no drift: digits, signs, letters made
for mathematics, single Greek letters. Scripts of the reference count as the question's, so a translation
into another script is none either.
"""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

_WORD = re.compile(r"[^\W\d_]+")
# Below this share of the letters, a script only occurs in the question: a name, an abbreviation.
_IN_USE = 0.05
# Fewer letters than these are a quotation of a word.
_FEWEST_LETTERS = 4


def foreign(response: str, context: str) -> tuple[str, float] | None:
    """Return the script that a response brings in, and its share of the letters.

    Args:
        response: the text.
        context: question and reference.

    Returns:
        The most frequent of the scripts that the context does not use with the share of all such letters,
        or None when there are none.
    """
    # Nearly every pair of texts: spared the counting.
    if response.isascii() and context.isascii():
        return None
    known = _scripts(context)
    if not known:
        return None
    used = {script for script, count in known.items() if count >= _IN_USE * known.total()}
    found = _scripts(response)
    new = Counter({script: count for script, count in found.items() if script not in used})
    if new.total() < _FEWEST_LETTERS:
        return None
    return new.most_common(1)[0][0], new.total() / found.total()


def _scripts(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    # NFKC makes plain letters of those for mathematics.
    for word in _WORD.findall(unicodedata.normalize("NFKC", text)):
        if word.isascii():
            counts["Latin"] += len(word)
            continue
        scripts = Counter(script for char in word if (script := _script(char)))
        if scripts["Greek"] <= 2:
            del scripts["Greek"]  # a variable, an angle, a change of one
        counts += scripts
    return counts


@lru_cache(maxsize=8192)
def _script(char: str) -> str | None:
    """Return the script of a letter by the first word of its Unicode name."""
    name = unicodedata.name(char, "")
    first = name.split(" ", 1)[0]
    if not char.isalpha() or not first:
        return None
    # Japanese is written in three scripts at once, with the characters of Chinese.
    if first in ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC"):
        return "Chinese or Japanese"
    if first in ("MODIFIER", "FEMININE", "MASCULINE", "MICRO", "ANGSTROM", "DOUBLE-STRUCK", "SCRIPT"):
        return None
    return first.capitalize()
