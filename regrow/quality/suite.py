"""The Great Expectations suite: every check of the gate as an expectation of GX 1.x."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from regrow.quality.spec import GateSpec
from regrow.selfdata.rule import DECISIONS
from regrow.selfdata.store import COLUMNS

# The computed column that is checked, and the columns that a person wants to see of an offending row.
_SHOWN = {
    "task_phrase": "response",
    "refusal": "response",
    "length_ratio": "response",
    "normal_response": "response",
    "answer_agrees": "response",
    "reference_kept": "response",
    "template_round_trip": "response",
    "response_tokens": "response",
    "contaminated": "instruction",
    "decision": "response",
    "id": "instruction",
}


@dataclass(frozen=True, slots=True)
class Check:
    """An expectation with its name and the words for a person."""

    name: str
    expectation: Any
    threshold: str
    advice: str

    @property
    def column(self) -> str:
        """The column it looks at."""
        return str(getattr(self.expectation, "column", "") or "")

    @property
    def shown(self) -> str:
        """The column whose text shows what an offending row says."""
        return _SHOWN.get(self.column, self.column)


def schema_checks() -> Iterator[Check]:
    """What must hold before anything can be computed from the rows."""
    from great_expectations import expectations as gx

    yield Check(
        "columns",
        gx.ExpectTableColumnsToMatchSet(column_set=sorted(COLUMNS), exact_match=False),
        f"has the columns {', '.join(COLUMNS)}",
        "generate the set again with `regrow distill`; other tools' files lack these columns",
    )
    yield Check(
        "column types",
        gx.ExpectColumnValuesToBeNull(column="mistyped"),
        "texts are text and counts are whole numbers",
        "generate the set again with `regrow distill`",
    )


def content_checks(spec: GateSpec, columns: list[str]) -> Iterator[Check]:
    """What the set must satisfy; checks on columns that were not computed are left out."""
    yield from _table_checks(spec)
    yield from _row_checks(spec)
    yield from _meaning_checks(spec, columns)


def _table_checks(spec: GateSpec) -> Iterator[Check]:
    from great_expectations import expectations as gx

    yield Check(
        "records",
        gx.ExpectTableRowCountToBeBetween(min_value=spec.min_records),
        f"at least {spec.min_records} records",
        "raise the dataset's limit, look for over-eager decontamination, or lower gate.min_records",
    )
    yield Check(
        "acceptance rate",
        gx.ExpectColumnMeanToBeBetween(column="accepted", min_value=spec.min_acceptance_rate),
        f"at least {spec.min_acceptance_rate:.1%} of the records rewritten",
        "raise self_data.max_new_tokens for unfinished ones, try another "
        "template or more attempts for differing answers, or lower gate.min_acceptance_rate",
    )
    yield Check(
        "duplicate responses",
        gx.ExpectColumnProportionOfUniqueValuesToBeBetween(
            column="normal_response", min_value=1 - spec.max_duplicate_rate
        ),
        f"at least {1 - spec.max_duplicate_rate:.1%} of the responses are unlike all others",
        "remove repeated questions, sample with a temperature, or raise gate.max_duplicate_rate",
    )


def _row_checks(spec: GateSpec) -> Iterator[Check]:
    from great_expectations import expectations as gx

    again = "remove these rows from the source, or repair its adapter"
    yield Check("id present", gx.ExpectColumnValuesToNotBeNull(column="id"), "every row has an id", again)
    yield Check("id unique", gx.ExpectColumnValuesToBeUnique(column="id"), "no id occurs twice", again)
    for column in ("instruction", "response"):
        yield Check(
            f"{column} not empty",
            gx.ExpectColumnValuesToMatchRegex(column=column, regex=r"\S"),
            "no value is blank",
            again,
        )
    yield Check(
        "response length",
        gx.ExpectColumnValuesToBeBetween(column="response_tokens", min_value=1, max_value=spec.max_tokens),
        f"every response has 1 to {spec.max_tokens} tokens",
        "leave out the long references, or raise gate.max_tokens to what training takes (tune.max_length)",
    )
    yield Check(
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
    yield Check(
        "decision known",
        gx.ExpectColumnValuesToBeInSet(column="decision", value_set=list(DECISIONS)),
        "one of the decisions that `regrow distill` takes",
        "generate the set again with `regrow distill`",
    )


def _meaning_checks(spec: GateSpec, columns: list[str]) -> Iterator[Check]:
    from great_expectations import expectations as gx

    yield Check(
        "task phrases",
        gx.ExpectColumnValuesToBeNull(column="task_phrase", mostly=1 - spec.max_phrase_rate),
        f"at most {spec.max_phrase_rate:.1%} of the rows are rewrites that speak about their task",
        "ban the phrase in self_data.banned_phrases too, so that these rows keep their reference",
    )
    yield Check(
        "refusals",
        gx.ExpectColumnValuesToBeNull(column="refusal", mostly=1 - spec.max_refusal_rate),
        f"at most {spec.max_refusal_rate:.1%} of the responses refuse",
        "ban the phrase in self_data.banned_phrases; remove references that refuse",
    )
    yield Check(
        "final answer",
        gx.ExpectColumnValuesToBeInSet(column="answer_agrees", value_set=[True]),
        "every rewrite ends in its record's final answer",
        "the data was changed after it was generated, or by another version: generate it again",
    )
    yield Check(
        "kept reference",
        gx.ExpectColumnValuesToBeInSet(column="reference_kept", value_set=[True]),
        "every response that is no rewrite is the reference",
        "the data was changed after it was generated: generate it again",
    )
    if "template_round_trip" in columns:
        yield Check(
            "chat template",
            gx.ExpectColumnValuesToBeInSet(column="template_round_trip", value_set=[True]),
            "the chat template keeps question and response whole",
            "repair the model's chat template, or remove rows that hold its special tokens",
        )
    if "contaminated" in columns:
        yield Check(
            "contamination",
            gx.ExpectColumnValuesToBeInSet(column="contaminated", value_set=[False]),
            f"no row shares {spec.contamination_words} successive words with an evaluation item",
            "remove these rows (regrow.quality.without_contamination does), or choose another evaluation",
        )
