"""How three ways to compare final answers do on the labelled table: `python -m tests.selfdata.answers.scores`."""

import logging
import re
import sys
from collections.abc import Callable

from regrow.selfdata.answers import matches
from tests.selfdata.answers.table import TABLE

Comparator = Callable[[str, str, str], bool]
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LETTER = re.compile(r"\b[A-J]\b")


def ours(text: str, answer: str, family: str) -> bool:
    return matches(text, answer, family)


def math_verify_alone(text: str, answer: str, family: str) -> bool:
    """The library's own extraction and comparison, with the settings that its page shows."""
    from math_verify import LatexExtractionConfig, StringExtractionConfig, parse, verify

    if family == "choice":
        letters = StringExtractionConfig(strings=tuple("ABCDEFGHIJ"))
        return verify(parse(answer, [letters]), parse(text, [letters]))
    if family == "math" and re.search(r"\\|[a-z]\^?\b", answer) and "$" not in answer:
        answer = f"${answer}$"
        return verify(parse(answer, [LatexExtractionConfig()]), parse(text))
    return verify(parse(answer), parse(text))


def last_number(text: str, answer: str, family: str) -> bool:
    """What many evaluation scripts do: the last number, or letter, of the text as it is written."""
    pattern = _LETTER if family == "choice" else _NUMBER
    found, wanted = pattern.findall(text), pattern.findall(answer)
    if not found or not wanted:
        return text.strip() == answer.strip()
    return found[-1].replace(",", "") == wanted[-1].replace(",", "")


def score(comparator: Comparator, family: str | None = None) -> tuple[int, int, int]:
    """Return right verdicts, wrong answers accepted, and right answers refused."""
    right = accepted = refused = 0
    for _, of, text, answer, agrees in TABLE:
        if family in (None, of):
            said = comparator(text, answer, of)
            right += said is agrees
            accepted += said and not agrees
            refused += agrees and not said
    return right, accepted, refused


def main() -> None:
    logging.disable(logging.WARNING)
    lines = []
    for family in (None, "math", "choice", "text"):
        cases = sum(family in (None, one[1]) for one in TABLE)
        lines.append(f"{family or 'all'}: {cases} cases")
        for comparator in (ours, math_verify_alone, last_number):
            right, accepted, refused = score(comparator, family)
            lines.append(
                f"  {comparator.__name__:18} right {right:3} ({right / cases:.1%}), wrong accepted {accepted:3}, "
                f"right refused {refused:3}"
            )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
