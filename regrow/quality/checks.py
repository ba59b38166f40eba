"""Every check of the gate: an expectation of Great Expectations, with the words for a person.

A check is a function of the specification; `regrow.quality.suite` says which family is held against which.
"""

from dataclasses import dataclass
from typing import Any

from regrow.quality.spec import GateSpec
from regrow.selfdata.rule import DECISIONS
from regrow.selfdata.store import COLUMNS

_AGAIN = "remove these rows from the source, or repair its adapter"
_CHANGED = "the data was changed after it was generated"


@dataclass(frozen=True, slots=True)
class Check:
    """An expectation with its name and the words for a person.

    Attributes:
        shown: the column whose text shows what an offending row says.
        by_row: whether single rows offend it, so that the rest is better off without them.
    """

    name: str
    expectation: Any
    threshold: str
    advice: str
    shown: str = "response"
    by_row: bool = True

    @property
    def column(self) -> str:
        """The column it looks at."""
        return str(getattr(self.expectation, "column", "") or "")


def columns(spec: GateSpec) -> Check:
    """The columns that `regrow distill` writes."""
    from great_expectations import expectations as gx

    return Check(
        "columns",
        gx.ExpectTableColumnsToMatchSet(column_set=sorted(COLUMNS), exact_match=False),
        f"has the columns {', '.join(COLUMNS)}",
        "generate the set again with `regrow distill`; other tools' files lack these columns",
        by_row=False,
    )


def column_types(spec: GateSpec) -> Check:
    """Text is text, counts are whole numbers."""
    from great_expectations import expectations as gx

    return Check(
        "column types",
        gx.ExpectColumnValuesToBeNull(column="mistyped"),
        "texts are text and counts are whole numbers",
        "generate the set again with `regrow distill`",
        shown="mistyped",
    )


def records(spec: GateSpec) -> Check:
    """Enough records."""
    from great_expectations import expectations as gx

    return Check(
        "records",
        gx.ExpectTableRowCountToBeBetween(min_value=spec.min_records),
        f"at least {spec.min_records} records",
        "raise the dataset's limit, look for over-eager decontamination, or lower gate.min_records",
        by_row=False,
    )


def rows_left(spec: GateSpec, before: int) -> Check:
    """Only where rows were taken out: `before` is how many there were."""
    from great_expectations import expectations as gx

    # Rounded first: 0.9 * 10 is a little more than 9.
    least = -int(-round((1 - spec.max_quarantine_rate) * before, 6) // 1)
    return Check(
        "rows left",
        gx.ExpectTableRowCountToBeBetween(min_value=least),
        f"at most {spec.max_quarantine_rate:.1%} of {before} records taken out, so {least} left",
        "that many bad rows have a common cause: read the quarantine file, mend the source or the template, "
        "or raise gate.max_quarantine_rate",
        by_row=False,
    )


def acceptance_rate(spec: GateSpec) -> Check:
    """Enough rewrites that were accepted."""
    from great_expectations import expectations as gx

    return Check(
        "acceptance rate",
        gx.ExpectColumnMeanToBeBetween(column="accepted", min_value=spec.min_acceptance_rate),
        f"at least {spec.min_acceptance_rate:.1%} of the records rewritten",
        "raise self_data.max_new_tokens for unfinished ones, try another "
        "template or more attempts for differing answers, or lower gate.min_acceptance_rate",
        by_row=False,
    )


def duplicate_responses(spec: GateSpec) -> Check:
    """Few responses that are said twice."""
    from great_expectations import expectations as gx

    return Check(
        "duplicate responses",
        gx.ExpectColumnProportionOfUniqueValuesToBeBetween(
            column="normal_response", min_value=1 - spec.max_duplicate_rate
        ),
        f"at least {1 - spec.max_duplicate_rate:.1%} of the responses are unlike all others",
        "remove repeated questions, sample with a temperature, or raise gate.max_duplicate_rate",
        by_row=False,
    )


def letter_balance(spec: GateSpec) -> Check:
    """Answers that are not nearly always the same letter."""
    from great_expectations import expectations as gx

    return Check(
        "letter balance",
        gx.ExpectColumnMeanToBeBetween(column="commonest_letter", max_value=spec.max_letter_share),
        f"no letter is the answer of more than {spec.max_letter_share:.1%} of the records "
        f"(judged from {spec.letter_balance_records} on)",
        "a model can learn the letter instead of the answer: shuffle the options in the source's adapter",
        shown="instruction",
        by_row=False,
    )


def id_present(spec: GateSpec) -> Check:
    """An id in every row."""
    from great_expectations import expectations as gx

    return Check(
        "id present",
        gx.ExpectColumnValuesToNotBeNull(column="id"),
        "every row has an id",
        _AGAIN,
        shown="instruction",
    )


def id_unique(spec: GateSpec) -> Check:
    """No id twice."""
    from great_expectations import expectations as gx

    return Check(
        "id unique",
        gx.ExpectColumnValuesToBeUnique(column="id"),
        "no id occurs twice",
        _AGAIN,
        shown="instruction",
    )


def instruction_not_empty(spec: GateSpec) -> Check:
    """A question in every row."""
    return _not_empty("instruction")


def response_not_empty(spec: GateSpec) -> Check:
    """A response in every row."""
    return _not_empty("response")


def _not_empty(column: str) -> Check:
    from great_expectations import expectations as gx

    return Check(
        f"{column} not empty",
        gx.ExpectColumnValuesToMatchRegex(column=column, regex=r"\S"),
        "no value is blank",
        _AGAIN,
        shown=column,
    )


def response_length(spec: GateSpec) -> Check:
    """Responses of a length that can be trained on."""
    from great_expectations import expectations as gx

    return Check(
        "response length",
        gx.ExpectColumnValuesToBeBetween(column="response_tokens", min_value=1, max_value=spec.max_tokens),
        f"every response has 1 to {spec.max_tokens} tokens",
        "leave out the long references, or raise gate.max_tokens to what training takes (tune.max_length)",
    )


def length_ratio(spec: GateSpec) -> Check:
    """Responses about as long as the references."""
    from great_expectations import expectations as gx

    return Check(
        "length ratio",
        gx.ExpectColumnValuesToBeBetween(
            column="length_ratio",
            min_value=spec.min_length_ratio,
            max_value=spec.max_length_ratio,
            mostly=spec.length_ratio_share,
        ),
        f"response over reference between {spec.min_length_ratio:g} and {spec.max_length_ratio:g} "
        f"in at least {spec.length_ratio_share:.1%} of the rows",
        "the model says far less or far more than the reference: try another template",
    )


def decision_known(spec: GateSpec) -> Check:
    """A decision of the rule of self-data."""
    from great_expectations import expectations as gx

    return Check(
        "decision known",
        gx.ExpectColumnValuesToBeInSet(column="decision", value_set=list(DECISIONS)),
        "one of the decisions that `regrow distill` takes",
        "generate the set again with `regrow distill`",
    )


def truncated(spec: GateSpec) -> Check:
    """Few responses that break off (`regrow.quality.truncation`)."""
    return _rarely(
        "truncated",
        "truncated",
        spec.max_truncated_rate,
        "of the responses break off",
        "raise self_data.max_new_tokens if they are rewrites; leave out the rows if the references break off",
    )


def task_phrases(spec: GateSpec) -> Check:
    """No rewrite that speaks about rewriting."""
    return _rarely(
        "task phrases",
        "task_phrase",
        spec.max_phrase_rate,
        "of the rows are rewrites that speak about their task",
        "ban the phrase in self_data.banned_phrases too, so that these rows keep their reference",
    )


def refusals(spec: GateSpec) -> Check:
    """Few responses that decline."""
    return _rarely(
        "refusals",
        "refusal",
        spec.max_refusal_rate,
        "of the responses refuse",
        "ban the phrase in self_data.banned_phrases; remove references that refuse",
    )


def same_script(spec: GateSpec) -> Check:
    """Responses in the script of the question (`regrow.quality.script`)."""
    return _rarely(
        "script",
        "drift",
        spec.max_drift_rate,
        f"of the responses have over {spec.max_foreign_letters:.0%} of their letters in a script that neither "
        "question nor reference uses",
        "the model left the question's language: name the language in the template, or use another model",
    )


def personal_data(spec: GateSpec) -> Check:
    """Few rows with data of persons (`regrow.quality.personal`)."""
    return _rarely(
        "personal data",
        "personal_data",
        spec.max_personal_rate,
        "of the rows hold an e-mail address, telephone, card, social security or IP number",
        "remove these rows from the source, or put made-up data in their place",
    )


def secrets(spec: GateSpec) -> Check:
    """No row with a key."""
    return _rarely(
        "secrets",
        "secret",
        spec.max_secret_rate,
        "of the rows hold a key or a token",
        "remove these rows from the source, and have the keys withdrawn if they are yours",
    )


def _rarely(name: str, column: str, rate: float, what: str, advice: str) -> Check:
    """A check on a column that is null where a row is fine."""
    from great_expectations import expectations as gx

    expectation = gx.ExpectColumnValuesToBeNull(column=column, mostly=1 - rate)
    return Check(name, expectation, f"at most {rate:.1%} {what}", advice)


def final_answer(spec: GateSpec) -> Check:
    """Rewrites that end in the record's answer."""
    from great_expectations import expectations as gx

    return Check(
        "final answer",
        gx.ExpectColumnValuesToBeInSet(column="answer_agrees", value_set=[True]),
        "every rewrite ends in its record's final answer",
        f"{_CHANGED}, or by another version: generate it again",
    )


def reference_answer(spec: GateSpec) -> Check:
    """References that end in the record's answer."""
    from great_expectations import expectations as gx

    return Check(
        "reference answer",
        gx.ExpectColumnValuesToBeInSet(
            column="reference_agrees", value_set=[True], mostly=1 - spec.max_reference_error_rate
        ),
        f"at most {spec.max_reference_error_rate:.1%} of the references do not end in their record's answer",
        "such a reference teaches a wrong end and no rewrite is ever accepted: let the adapter close it with "
        '"The answer is ...", or correct the field `answer`',
        shown="reference",
    )


def kept_reference(spec: GateSpec) -> Check:
    """References that were kept as they were."""
    from great_expectations import expectations as gx

    return Check(
        "kept reference",
        gx.ExpectColumnValuesToBeInSet(column="reference_kept", value_set=[True]),
        "every response that is no rewrite is the reference",
        f"{_CHANGED}: generate it again",
    )


def chat_template(spec: GateSpec) -> Check:
    """Conversations that the chat template keeps whole."""
    from great_expectations import expectations as gx

    return Check(
        "chat template",
        gx.ExpectColumnValuesToBeInSet(column="template_round_trip", value_set=[True]),
        "the chat template keeps question and response whole",
        "repair the model's chat template, or remove rows that hold its special tokens",
    )


def token_budget(spec: GateSpec) -> Check:
    """Conversations that training need not cut."""
    from great_expectations import expectations as gx

    return Check(
        "token budget",
        gx.ExpectColumnValuesToBeBetween(
            column="conversation_tokens",
            max_value=spec.max_conversation_tokens,
            mostly=1 - spec.max_overlong_rate,
        ),
        f"at most {spec.max_overlong_rate:.1%} of the conversations have more than "
        f"{spec.max_conversation_tokens} tokens",
        "training cuts them: leave out the long rows, or raise tune.max_length and "
        "gate.max_conversation_tokens with it",
    )


def contamination(spec: GateSpec) -> Check:
    """No evaluation item among the rows."""
    from great_expectations import expectations as gx

    return Check(
        "contamination",
        gx.ExpectColumnValuesToBeInSet(column="contaminated", value_set=[False]),
        f"no row shares {spec.contamination_words} successive words with an evaluation item",
        "remove these rows (`regrow validate --suite ... --out ...` does), or choose another evaluation",
        shown="instruction",
    )
