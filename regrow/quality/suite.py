"""The suites: which checks each family of data is held against."""

from collections.abc import Callable, Collection

from regrow.quality import checks
from regrow.quality.checks import Check
from regrow.quality.spec import GateSpec

# Before these hold, nothing can be computed from the rows.
SCHEMA = (checks.columns, checks.column_types)

OPEN = (
    *SCHEMA,
    # the set as a whole
    checks.records,
    checks.acceptance_rate,
    checks.duplicate_responses,
    # each row's form
    checks.id_present,
    checks.id_unique,
    checks.instruction_not_empty,
    checks.response_not_empty,
    checks.response_length,
    checks.length_ratio,
    checks.decision_known,
    checks.kept_reference,
    # what each row says
    checks.truncated,
    checks.task_phrases,
    checks.refusals,
    checks.same_script,
    checks.personal_data,
    checks.secrets,
    # what the student will see of it
    checks.chat_template,
    checks.token_budget,
    checks.contamination,
)
# Families with a final answer.
TEXT = (*OPEN, checks.final_answer, checks.reference_answer)
MATH = TEXT
CHOICE = (*TEXT, checks.letter_balance)

SUITES: dict[str, tuple[Callable[[GateSpec], Check], ...]] = {
    "open": OPEN,
    "text": TEXT,
    "math": MATH,
    "choice": CHOICE,
}

# Columns that are there only if a tokenizer, evaluation items or enough letters were given.
_OPTIONAL = {"template_round_trip", "conversation_tokens", "contaminated", "commonest_letter"}


def schema() -> list[Check]:
    """The checks that come first, alone."""
    return [check(GateSpec()) for check in SCHEMA]


def suite(family: str, spec: GateSpec, columns: Collection[str], before: int | None = None) -> list[Check]:
    """Return the checks of a family.

    Args:
        family: choice, math, text or open.
        spec: thresholds.
        columns: those of the table; checks on optional ones that are not there are left out.
        before: how many rows there were, if some have been taken out.
    """
    made = [check(spec) for check in SUITES[family]]
    if before is not None:
        made.append(checks.rows_left(spec, before))
    return [check for check in made if check.column not in _OPTIONAL or check.column in columns]
