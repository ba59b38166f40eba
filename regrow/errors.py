"""Errors made for people: one line that says what was wrong, where, and what to do.

Each class carries the exit status that the `regrow` command ends with.
"""


class RegrowError(Exception):
    """A stage could not finish (a full disk, a child process that failed)."""

    exit_status = 1


class InputError(RegrowError):
    """The user's configuration, data or model cannot be used; the message names the field or file."""

    exit_status = 2


class GateFailedError(RegrowError):
    """The data or the model did not pass its gate; nothing after the gate ran."""

    exit_status = 3


class InterruptedRunError(RegrowError):
    """The run was asked to stop (SIGTERM) and has saved; the same command goes on from there."""

    exit_status = 75  # EX_TEMPFAIL: not done, worth another try
