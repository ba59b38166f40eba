"""Questions and pruned models for the tests of what is measured beside tasks."""

import json

from regrow.evaluate.spec import EvaluateSpec
from regrow.prune import PruneSpec, apply, make_plan
from tests.tiny import tiny_checkpoint

QUESTIONS = tuple("Count to " + "one hundred and " * (i % 4) + str(i) for i in range(6))


def write_questions(folder, questions=QUESTIONS):
    """A file of questions of different lengths, and its section `prompts`."""
    file = folder / "questions.jsonl"
    rows = [{"instruction": text, "reference": "None."} for text in questions]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"name": "questions", "source": str(file), "adapter": "columns"}


def suite(folder, questions=QUESTIONS, **sections):
    """An evaluation in float32 that asks for answers and nothing else."""
    answers = {
        "prompts": write_questions(folder, questions),
        "max_new_tokens": 24,
        "batch_size": 4,
        "encoder": None,
    }
    given = sections.pop("answers", {})
    return EvaluateSpec.model_validate({"answers": answers | given, "dtype": "float32", **sections})


def lively(folder, **config):
    """A random model whose next token hangs on those before it: weights larger than a fresh model's."""
    return tiny_checkpoint(folder, initializer_range=0.2, **config)


def pruned(base, folder, drop="3:5"):
    """The model without a few blocks."""
    return apply(base, make_plan(base, PruneSpec(drop=drop)), folder)
