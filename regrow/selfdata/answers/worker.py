"""The process in which math-verify compares two expressions; started and watched by `algebra`.

It reads one JSON pair a line and answers true or false. It is a script of its own, so that an expression over
which sympy would work for ever, or take all memory, ends this process and not the one that trains.
"""

import json
import logging
import sys
from typing import Any

_MEMORY = 2 * 2**30
# Expressions have at most 200 characters; a true difference shows long before the fiftieth digit.
_PRECISION = 50


def main() -> None:
    """Answer until the input ends."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # no such limit on this system; the time limit remains
    logging.disable(logging.CRITICAL)
    sys.set_int_max_str_digits(100_000)
    compare("x", "1")  # the first parse builds tables
    _say("ready")
    for line in sys.stdin:
        left, right = json.loads(line)
        _say(compare(left, right))


def compare(left: str, right: str) -> bool:
    """Whether two LaTeX expressions, or two relations, are the same."""
    try:
        return _compare(_parse(left), _parse(right))
    except Exception:  # whatever sympy raises on odd input: no verdict
        return False


def _parse(text: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # Its own search for units takes letters off: 5th would be 5, and 2m be 2.
    plain = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
    )
    found = parse(
        f"${text}$",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=-1, normalization_config=plain)],
        fallback_mode="no_fallback",
        parsing_timeout=None,
        raise_on_error=True,
    )
    if len(found) != 1:
        raise ValueError("no single expression")
    return found[0]


def _compare(left: Any, right: Any) -> bool:
    from math_verify import verify
    from sympy import Expr, nan, oo, zoo
    from sympy.core.relational import Relational

    if isinstance(left, Relational) and isinstance(right, Relational):
        return _same_relation(left, right)
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return False
    for side in (left, right):
        if side.doit().has(nan, oo, -oo, zoo):
            return False
    return bool(
        verify(
            left,
            right,
            numeric_precision=_PRECISION,
            timeout_seconds=None,
            raise_on_error=True,
        )
    )


def _same_relation(left: Any, right: Any) -> bool:
    """One is the other times a constant: 2x + 2y = 4 is x + y = 2, and x < 3 is 3 > x."""
    from sympy import Eq, Ge, Gt, Le, Lt, Ne, simplify

    flipped = {Eq: Eq, Ne: Ne, Ge: Le, Le: Ge, Gt: Lt, Lt: Gt}
    one, other = (simplify((side.lhs - side.rhs).doit()) for side in (left, right))
    if not one.free_symbols or not other.free_symbols:
        return False  # "1 = 2" and "x = x + 1" say nothing of a value
    ratio = simplify(one / other)
    if ratio.free_symbols or not ratio.is_finite or ratio.is_zero or not ratio.is_real:
        return False
    wanted = type(left) if ratio.is_positive else flipped.get(type(left))
    return wanted is type(right)


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
