"""What the evaluated items say, so that training data can be kept clear of it."""

import re
from typing import TYPE_CHECKING

from regrow.evaluate.adapters import Row
from regrow.evaluate.harness import built_tasks
from regrow.evaluate.spec import EvaluateSpec

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


def task_texts(spec: EvaluateSpec) -> list[str]:
    """Return the texts of the evaluated items, to keep them out of the training data.

    For each item: the question alone, without the words that the task puts around it, and the question
    followed by its choices.

    Raises:
        InputError: a task cannot be loaded.
    """
    texts: dict[str, None] = {}
    for task in spec.tasks:
        with built_tasks(task, spec.seed) as built:
            for one, _ in built.values():
                for document in one.eval_docs:
                    texts.update(dict.fromkeys(_texts_of(one, document)))
    return [text for text in texts if text]


def _texts_of(task: "ConfigurableTask", document: Row) -> list[str]:
    choices = [str(choice) for choice in task.doc_to_choice(document)] if task.config.doc_to_choice else []
    question = task.doc_to_text(document)
    if not isinstance(question, str):
        # Several contexts and one continuation (WinoGrande): each context continued is a text.
        ending = task.doc_to_target(document)
        return [f"{choice} {ending}".strip() for choice in choices]
    bare = re.sub(r"^\s*(?:Question|Q):\s*|\s*(?:Answer|A):\s*$", "", question).strip()
    return [bare, " ".join([bare, *choices])]
