"""One thing that was looked at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        what: the part of the stack.
        state: `ok`, `missing`, or `note` for what could not be known or need not be.
        said: in plain words.
        remedy: what to do.
    """

    what: str
    state: str
    said: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether a run can do with it."""
        return self.state != "missing"

    def line(self) -> str:
        """The finding as one line."""
        return f"{self.state:<8}{self.what:<20}{self.said}" + (f" -> {self.remedy}" if self.remedy else "")


def ok(what: str, said: str) -> Finding:
    """Say what is there."""
    return Finding(what, "ok", said)


def missing(what: str, said: str, remedy: str) -> Finding:
    """Say what is missing, and what to do."""
    return Finding(what, "missing", said, remedy)


def note(what: str, said: str, remedy: str = "") -> Finding:
    """Say what could not be known, or what may be fine."""
    return Finding(what, "note", said, remedy)
