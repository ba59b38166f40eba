"""Final answers: what a text says in the end (`final`), and whether two of them are the same.

Numbers are compared exactly (`exact`), other mathematics by its shape and parts (`symbolic`), and those parts that hold
symbols by math-verify (`algebra`, in a process of its own, `worker`).
"""

from regrow.selfdata.answers.final import equal, extract, matches, normalise

__all__ = ["equal", "extract", "matches", "normalise"]
