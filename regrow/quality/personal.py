"""Personal data and keys in texts: found by their form, and masked wherever a text is shown.

A form is not yet a person's: addresses at example.com, telephone numbers kept for fiction, documented test
numbers and numbers inside a calculation do not count.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

SECRETS = frozenset({"AWS key", "API key", "private key", "web token"})


@dataclass(frozen=True, slots=True)
class Match:
    """A place in a text that has the form of personal data or of a key."""

    kind: str
    start: int
    end: int
    text: str

    @property
    def masked(self) -> str:
        """The kind and the first two characters: enough to find it, too little to use it."""
        return f"[{self.kind} {self.text[:2]}…]"


def find(text: str) -> list[Match]:
    """Return what has the form of personal data or of a key, in the order of the text."""
    found: list[Match] = []
    for form in _FORMS:
        if form.hint is not None and form.hint not in text:
            continue
        found += [
            Match(form.kind, match.start(), match.end(), match[0])
            for match in form.pattern.finditer(text)
            if form.counts(match)
        ]
    return list(_apart(sorted(found, key=lambda match: (match.start, -match.end))))


def mask(text: str) -> str:
    """Return the text with everything that `find` finds replaced by its kind and two characters."""
    parts, end = [], 0
    for match in find(text):
        parts += [text[end : match.start], match.masked]
        end = match.end
    return "".join([*parts, text[end:]])


def _apart(matches: list[Match]) -> Iterator[Match]:
    """Yield matches that do not overlap an earlier one: a card number holds what looks like a telephone's."""
    end = 0
    for match in matches:
        if match.start >= end:
            yield match
            end = match.end


@dataclass(frozen=True, slots=True)
class _Form:
    kind: str
    pattern: re.Pattern[str]
    counts: Callable[[re.Match[str]], bool] = lambda match: True
    hint: str | None = None  # a text without it needs no search


_OPERATORS = "=+*/\u00d7\u00f7^<>$\u20ac\u00a3%"
_FREE_DOMAINS = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net|edu)|(?:example|test|invalid|localhost|local))\Z"
)
# Published numbers that belong to nobody: advertisements, documentation, test accounts.
_KNOWN_SSN = frozenset({"078-05-1120", "219-09-9999", "123-45-6789", "111-11-1111"})
_TEST_CARDS = frozenset(
    {
        "378282246310005", "371449635398431", "4012888888881881", "4111111111111111", "4242424242424242",
        "5105105105105100", "5555555555554444", "6011000990139424", "6011111111111117",
    }
)  # fmt: skip


def _calculated(match: re.Match[str]) -> bool:
    """Whether a number stands in a calculation: beside a sign, or right before a unit of it."""
    text = match.string
    before, after = text[: match.start()].rstrip()[-1:], text[match.end() :].lstrip()[:1]
    return (before != "" and before in _OPERATORS) or (after != "" and after in _OPERATORS)


def _real_address(match: re.Match[str]) -> bool:
    return not _FREE_DOMAINS.search(match[0].rpartition("@")[2].lower())


def _real_phone(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    if not 9 <= len(digits) <= 15 or _calculated(match):
        return False
    # 555 is kept for fiction in North America; runs such as 123-456-7890 stand for "any number".
    north_american = digits[-10:]
    return not (
        north_american[3:6] == "555"
        or north_american[:3] == "555"
        or "12345" in digits
        or len(set(digits)) <= 3
    )


def _real_ssn(match: re.Match[str]) -> bool:
    return match[0] not in _KNOWN_SSN and not _calculated(match)


def _real_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    if digits in _TEST_CARDS or len(set(digits)) <= 3 or _calculated(match):
        return False
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _public_ip(match: re.Match[str]) -> bool:
    try:
        address = ip_address(match[0])
    except ValueError:
        return False
    return address.is_global and not address.is_multicast and not _calculated(match)


def _random_looking(match: re.Match[str]) -> bool:
    """Whether a key is more than a placeholder ("sk-xxxx", "AKIA...EXAMPLE")."""
    body = match[0]
    return (
        len(set(body)) >= 10
        and any(char.isdigit() for char in body)
        and any(char.isalpha() for char in body)
        and "EXAMPLE" not in body.upper()
        and "YOUR" not in body.upper()
    )


_KEY = (
    r"(?<![\w-])(?:"
    r"sk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{20,}"
    r"|(?:sk|rk|pk)_live_[A-Za-z0-9]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{35}|xox[abeprs]-[A-Za-z0-9-]{10,}"
    r")"
)
_PHONE = r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{3}[.-]\d{4}(?![\w-])(?!\.\d)"
_PHONE_ABROAD = r"(?<![\w+*/=.)-])\+[1-9]\d{0,2}[ .-]?\(?\d{1,4}\)?(?:[ .-]\d{2,4}){2,4}(?![\w-])"
_EMAIL = r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b"
_CARD = (
    r"(?<![\d.,-])(?:(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6(?:011|5\d\d))(?:[ -]?\d{4}){3}"
    r"|3[47]\d\d[ -]?\d{6}[ -]?\d{5})(?![\d-])(?!\.\d)"
)
_SSN = r"(?<![\d.-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])"
_PRIVATE_KEY = (
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----\s*[A-Za-z0-9+/=]{16}"
    r"(?:.*?-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----|.*)"
)
_FORMS = (
    _Form("private key", re.compile(_PRIVATE_KEY, re.DOTALL), hint="-----BEGIN"),
    _Form("AWS key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), _random_looking),
    _Form("API key", re.compile(_KEY), _random_looking),
    _Form("web token", re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{16,}", re.ASCII), hint="eyJ"),
    _Form("e-mail", re.compile(_EMAIL), _real_address, hint="@"),
    _Form("card", re.compile(_CARD), _real_card),
    _Form("social security number", re.compile(_SSN), _real_ssn, hint="-"),
    _Form("telephone", re.compile(_PHONE), _real_phone),
    _Form("telephone", re.compile(_PHONE_ABROAD), _real_phone, hint="+"),
    _Form("IP address", re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-])(?!\.\d)"), _public_ip),
)
