"""Small rewritten sets for the gate."""

from regrow.selfdata import REWRITTEN, store

FRUIT = ["apple", "pear", "plum", "fig", "lime", "kiwi", "peach", "grape", "melon", "date", "lemon", "mango"]
LONG = "An evaluation item that nobody should have trained on because it is used to measure the model"


def row(i, **changes):
    letter = "ABCD"[i % 4]
    reference = f"The {FRUIT[i]} is grown for its fruit. The answer is {letter}) {FRUIT[i]}."
    return {
        "id": f"{i:016x}",
        "instruction": f"Which of these is called {FRUIT[i]}?",
        "input": "",
        "reference": reference,
        "answer": letter,
        "source": "fruit",
        "response": f"People like to eat the {FRUIT[i]}. The answer is {letter}) {FRUIT[i]}.",
        "rewrite": f"People like to eat the {FRUIT[i]}. The answer is {letter}) {FRUIT[i]}.",
        "engine": "transformers",
        "decision": REWRITTEN,
        "attempts": 1,
        "prompt_tokens": 40,
        "response_tokens": 15,
        "seed": -1,
    } | changes


def rows(changed=()):
    """Twelve good rows, with the changes of `changed` by number."""
    return [row(i, **dict(changed).get(i, {})) for i in range(12)]


def kept(i, **changes):
    return {"response": row(i)["reference"], "decision": "kept: answer differs"} | changes


def said(text):
    """A kept reference that says `text`."""
    return {"response": text, "reference": text, "decision": "kept: answer differs"}


def saved(tmp_path, content, family="choice"):
    return store.save(content, {"family": family, "dataset": "fruit"}, tmp_path / "data")


def failures(result):
    return [finding.name for finding in result.failed()]
