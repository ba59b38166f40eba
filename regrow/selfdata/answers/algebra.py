"""Whether two expressions are the same mathematics: math-verify's verdict, asked for with care.

math-verify reads LaTeX into sympy and compares symbols and numbers. Left alone it takes words for products of
letters ("listen" = "silent"), decimals for approximations (0.333 = 1/3), juxtaposed numbers for sums
("1 2" = 3) and capitals for small letters; its time limit needs the main thread; and sympy can work for ever
on a short text (9^{9^{9}}). So an expression is asked about only where `readable` finds nothing of that kind,
with decimals as exact fractions, in a process that has a limit of memory and is ended after `LIMIT` seconds.
What is refused, or takes too long, counts as different.
"""

import atexit
import json
import logging
import os
import re
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

from regrow.errors import RegrowError

log = logging.getLogger(__name__)

LIMIT = 10.0  # seconds for one comparison; what `readable` lets pass takes milliseconds
_START = 120.0  # seconds until the process has imported sympy on a busy machine

LONGEST = 200  # characters of an expression
_DIGITS = 20  # of one number
_POWER = 1_000  # greatest product of the exponents in an expression
_FUNCTIONS = frozenset(re.findall(r"\w+", "sin cos tan cot sec csc arcsin arccos arctan log ln exp sqrt"))
_COMMANDS = _FUNCTIONS | frozenset(
    re.findall(
        r"\w+",
        "frac dfrac tfrac cdot times div pi left right leq geq le ge neq ne alpha beta gamma delta epsilon "
        "theta lambda mu nu rho sigma tau phi varphi psi omega Delta",
    )
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SHOWN = re.compile(r"[\w\s+\-*/^=<>(){}\[\].|\\]+")
_REFUSED = re.compile(
    r"\d\s+\.?\d"  # two numbers side by side
    r"|(?<![A-Za-z}])_|_\{?[^\w{]"  # a base, not an index
    r"|\d_"
    r"|/\s*[\w.]+\s*[A-Za-z(\\]"  # x/2y: what is divided?
    r"|/[^/+=<>-]*/"  # 1/2/3 may be a date
    r"|[)}\]]\s*\d"  # (x)2
    r"|\^\s*[-+]?\w*\s*\^|\^\{[^{}]*\^"  # a power in an exponent
    r"|\)\s*\^\s*\{?\s*(?:1[3-9]|[2-9]\d|\d{3,})"  # a sum to a high power has very many terms
    r"|(?:\^|frac|sqrt)\s*\d*\."  # whose exponent or argument is the decimal?
    r"|(?<![A-Za-z\\])[fgh]\s*\("  # a function, not a product
    r"|\d\.(?!\d)|\.\d*\."
    r"|\\[^A-Za-z]"
)


def same(left: str, right: str) -> bool:
    """Whether two expressions, or two relations, are the same mathematics; doubt is no."""
    if not readable(left) or not readable(right) or _capitals(left) != _capitals(right):
        return False
    return _same(*sorted((_exact(left), _exact(right))))


def readable(text: str) -> bool:
    """Whether math-verify is asked about a text: short, of known parts, and cheap to compute."""
    if not text or len(text) > LONGEST or not _SHOWN.fullmatch(text) or not text.isascii():
        return False
    if _REFUSED.search(text) or any(len(run) > _DIGITS for run in re.findall(r"\d+", text)):
        return False
    if not set(_COMMAND.findall(text)) <= _COMMANDS:
        return False
    return not _has_words(_COMMAND.sub(" + ", text)) and _power(text) <= _POWER


def _has_words(text: str) -> bool:
    """Whether letters spell words; "xy" in "2xy + 1" does not, "no" and "x and y" do."""
    if len(text) > 1 and re.fullmatch(r"[A-Za-z\s]+", text):
        return True
    for match in re.finditer(r"[A-Za-z]{2,}", text):
        if match[0] in _FUNCTIONS:
            continue
        before, after = text[: match.start()], text[match.end() :].lstrip()
        joined = before.rstrip()[-1:] in "+-*/=<>({|^" if before[-1:].isspace() or not before else True
        if len(match[0]) > 3 or not joined or after[:1].isalpha():
            return True
    return False


def _power(text: str) -> int:
    product = 1
    for exponent in re.findall(r"\^\s*(?:\{([^{}]*)\}|([^{\s]))", text):
        for number in re.findall(r"\d+", "".join(exponent)):
            product *= max(1, int(number))
    # An exponent with braces inside it, such as a fraction, is seen through its numbers.
    for nested in re.findall(r"\^\s*\{((?:[^{}]|\{[^{}]*\})*\{(?:[^{}]|\{[^{}]*\})*)\}", text):
        for number in re.findall(r"\d+", nested):
            product *= max(1, int(number))
    return product


def _capitals(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Z]", _COMMAND.sub(" ", text)))


def _exact(text: str) -> str:
    """Write decimals as fractions and functions as LaTeX, so that nothing is rounded or misread."""
    text = re.sub(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|log|ln|exp|pi)(?![A-Za-z])", r"\\\1 ", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(
        r"(\d*)\.(\d+)",
        lambda match: rf"(\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}})",
        text,
    )
    return " ".join(text.split())


@lru_cache(maxsize=65_536)
def _same(left: str, right: str) -> bool:
    return left == right or _WORKER.ask(left, right)


class _Worker:
    """One process that compares, for all threads; made anew when it was ended, or after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, left: str, right: str) -> bool:
        """Return the verdict; a comparison that takes too long or too much memory is a no."""
        if self._owner != os.getpid():
            # A fork has the parent's pipes, and perhaps its lock, taken.
            self._lock, self._process, self._owner = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            answer = self._exchange(self._process, json.dumps([left, right]) + "\n", LIMIT)
            if answer is None:
                log.warning("%s and %s: no verdict within %g s; taken as different", left, right, LIMIT)
                self.close()
            return answer == "true"

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _start(self) -> "subprocess.Popen[str]":
        script = Path(__file__).with_name("worker.py")
        process = subprocess.Popen(
            [sys.executable, "-P", str(script)],  # -P: the modules beside it must not stand in for others
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        if self._exchange(process, "", _START) != '"ready"':
            process.kill()
            process.communicate()
            raise RegrowError(
                "answer check: the process that compares expressions does not start; is math-verify "
                "installed? (pip install 'math-verify[antlr4_13_2]')"
            )
        return process

    @staticmethod
    def _exchange(process: "subprocess.Popen[str]", line: str, limit: float) -> str | None:
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line)
            process.stdin.flush()
            return process.stdout.readline().strip() or None
        except OSError:
            return None
        except BaseException:
            # An answer that nobody has read must not become that of the next question.
            process.kill()
            process.wait()
            raise
        finally:
            timer.cancel()
            timer.join()


_WORKER = _Worker()
atexit.register(_WORKER.close)
