"""The commands of `regrow`, a module each: its options, and what it does with them.

A module's name is the command, its docstring the help. Heavy imports wait in `handle` until they are needed.
"""

from regrow.commands import (
    audit,
    compare,
    digest,
    distill,
    evaluate,
    export,
    fuse,
    importance,
    merge,
    models,
    plan,
    promote,
    prune,
    register,
    run,
    shift,
    stack,
    study,
    tune,
    validate,
)

COMMANDS = (
    run,
    study,
    plan,
    stack,
    importance,
    prune,
    compare,
    distill,
    validate,
    shift,
    tune,
    fuse,
    evaluate,
    merge,
    register,
    models,
    promote,
    export,
    digest,
    audit,
)
