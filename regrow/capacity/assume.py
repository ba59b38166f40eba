"""What a configuration does not say and only the data would: sizes that a plan has to assume.

Numbers of questions are those of the public sets (test or validation split, as lm-eval takes them). Lengths in tokens
are round figures, a token taken as four characters of English; where they matter, measure your own and give
`--assume KEY=VALUE`.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regrow.errors import InputError
from regrow.evaluate.spec import TaskSpec


class Assumptions(BaseModel):
    """Sizes of data, in records and tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: int = Field(20_000, ge=1, description="records of a dataset without limit")
    instruction: int = Field(100, ge=1, description="tokens of an instruction with its input")
    reference: int = Field(200, ge=1, description="tokens of a reference answer")
    template: int = Field(60, ge=0, description="tokens that chat template and rewriting prompt add")
    response: int = Field(
        200, ge=1, description="tokens of a rewrite or a free answer, at most max_new_tokens"
    )
    texts: int = Field(1_000, ge=1, description="texts of a set without limit")
    text: int = Field(400, ge=1, description="tokens of a text for calibration or perplexity")
    questions: int = Field(1_000, ge=1, description="questions of a task that is not known here")
    occupancy: float = Field(
        0.85, gt=0, le=1, description="mean share of a generating batch's rows that are alive"
    )


@dataclass(frozen=True)
class Task:
    """A public task: its questions, and tokens of each."""

    questions: int
    choices: int  # 0: an answer is generated
    question: int
    answer: int
    shots: int = 0  # the task's own number


TASKS = {
    "arc_challenge": Task(1172, 4, 30, 6),
    "arc_easy": Task(2376, 4, 25, 5),
    "boolq": Task(3270, 2, 150, 1),
    "commonsense_qa": Task(1221, 5, 60, 1),
    "gsm8k": Task(1319, 0, 60, 130, shots=5),
    "hellaswag": Task(10_042, 4, 60, 30),
    "mmlu": Task(14_042, 4, 110, 1),
    "openbookqa": Task(500, 4, 15, 5),
    "piqa": Task(1838, 2, 15, 25),
    "sciq": Task(1000, 4, 120, 3),
    "truthfulqa_mc2": Task(817, 7, 220, 14),  # six solved questions stand in its prompt
    "winogrande": Task(1267, 2, 20, 8),
}


@dataclass(frozen=True)
class Reading:
    """What a task has a model read and write."""

    questions: int
    prompt: int  # tokens before a question's choices, solved examples included
    choices: int  # tokens of all choices of a question
    generated: int  # tokens that are generated for a question


def reading(task: TaskSpec, assumed: Assumptions) -> Reading:
    """Return what a task costs in tokens: a question is read once for all of its choices."""
    known = TASKS.get(task.name) or Task(assumed.questions, 4, assumed.instruction, 10)
    questions = min(task.limit or known.questions, known.questions)
    shots = known.shots if task.num_fewshot is None else task.num_fewshot
    prompt = shots * (known.question + known.answer) + known.question
    if known.choices:
        return Reading(questions, prompt, known.choices * known.answer, 0)
    return Reading(questions, prompt, 0, known.answer)


def assumptions(pairs: list[str]) -> Assumptions:
    """Return the assumptions with what a user gives as KEY=VALUE.

    Raises:
        InputError: an unknown key or a value out of its range.
    """
    given = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or key not in Assumptions.model_fields:
            raise InputError(
                f"--assume {pair}: write KEY=VALUE with one of {', '.join(Assumptions.model_fields)}"
            )
        given[key] = value
    try:
        return Assumptions.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"--assume {first['loc'][0]}: {first['msg']}") from None
