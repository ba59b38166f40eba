"""From the rows of a file to the rows that an lm-eval task expects."""

from collections.abc import Callable
from typing import Any

from regrow.errors import InputError

Row = dict[str, Any]

# The column that holds the question, in the sets whose oe-eval requests can be turned back.
_QUESTION = {"arc_easy": "question", "arc_challenge": "question", "openbookqa": "question_stem"}
_BEFORE, _AFTER = "Question: ", "\nAnswer:"


def adapt(rows: list[Row], adapter: str, task: str) -> list[Row]:
    """Return the rows in the columns of the hub's own set.

    Raises:
        InputError: the rows are not what the adapter reads, or it does not serve the task.
    """
    return _ADAPTERS[adapter](rows, task)


def _rows(rows: list[Row], task: str) -> list[Row]:
    return rows


def _oe_eval(rows: list[Row], task: str) -> list[Row]:
    """Turn oe-eval's requests back into questions.

    A file has a line for each choice, and holds every question a second time under another doc_id (asked
    without its context, for normalisation); the set's own id tells that they are one.

    Its files keep the answers' texts and the index of the right one, but not the letters that the set
    gave them: they are lettered anew from A, which no task of lm-eval shows to the model.
    """
    if task == "gsm8k":
        return _gsm8k(rows)
    if task not in _QUESTION:
        raise InputError(
            f"tasks.{task}.adapter: oe_eval serves {', '.join(sorted([*_QUESTION, 'gsm8k']))}; use rows"
        )
    documents: dict[Any, Row] = {}
    for number, row in enumerate(rows, 1):
        try:
            document = row["doc"]
            key = str(document["id"])
            query, choices, gold = document["query"], list(document["choices"]), int(document["gold"])
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"tasks.{task}.source: row {number} is no oe-eval request (doc: id, query, choices, gold)"
            ) from None
        if key in documents:
            continue
        if not (query.startswith(_BEFORE) and query.endswith(_AFTER)) or not 0 <= gold < len(choices):
            raise InputError(f"tasks.{task}.source: row {number} is not wrapped as 'Question: ...Answer:'")
        letters = [chr(ord("A") + i) for i in range(len(choices))]
        if choices == letters:
            raise InputError(
                f"tasks.{task}.source: the answers are mere letters (an _mc_ file); name the _rc_ file"
            )
        documents[key] = {
            "id": key,
            _QUESTION[task]: query[len(_BEFORE) : -len(_AFTER)],
            "choices": {"text": choices, "label": letters},
            "answerKey": letters[gold],
        }
    return list(documents.values())


def _gsm8k(rows: list[Row]) -> list[Row]:
    try:
        return [{"question": row["doc"]["question"], "answer": row["doc"]["answer"]} for row in rows]
    except (KeyError, TypeError):
        raise InputError("tasks.gsm8k.source: no oe-eval requests (doc: question, answer)") from None


def _boolq(rows: list[Row], task: str) -> list[Row]:
    """Give google/boolq rows the label of SuperGLUE's copy, whose passages also begin with a title."""
    try:
        return [
            {"question": row["question"], "passage": row["passage"], "idx": i, "label": int(row["answer"])}
            for i, row in enumerate(rows)
        ]
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"tasks.{task}.source: the adapter boolq needs question, passage and answer"
        ) from None


_ADAPTERS: dict[str, Callable[[list[Row], str], list[Row]]] = {
    "rows": _rows,
    "oe_eval": _oe_eval,
    "boolq": _boolq,
}
