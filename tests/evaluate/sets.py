"""A few rows in the columns of public sets, written for these tests."""

import json
from pathlib import Path


def _arc(number: int, question: str, choices: list[str], gold: int) -> dict:
    letters = "ABCD"[: len(choices)]
    return {
        "id": f"t{number}",
        "question": question,
        "choices": {"text": choices, "label": list(letters)},
        "answerKey": letters[gold],
    }


ARC = [
    _arc(1, "Which of these is a liquid at room temperature?", ["water", "iron", "oxygen", "salt"], 0),
    _arc(2, "What do plants take from the air?", ["sand", "carbon dioxide", "light"], 1),
    _arc(3, "Which star is nearest to the Earth?", ["the Moon", "Sirius", "Mars", "the Sun"], 3),
    _arc(4, "What pulls a dropped stone down?", ["wind", "gravity", "heat", "sound"], 1),
    _arc(5, "Which animal lays eggs?", ["a cow", "a dog", "a hen", "a cat"], 2),
    _arc(6, "What is frozen water called?", ["ice", "steam", "rain", "fog"], 0),
]
HELLASWAG = [
    {
        "ind": i,
        "activity_label": "Making tea",
        "ctx_a": "A woman boils water.",
        "ctx_b": "she",
        "ctx": "A woman boils water. she",
        "endings": [
            "pours it [substeps] over leaves.",
            "eats the kettle.",
            "paints a wall.",
            "falls asleep.",
        ],
        "source_id": f"s{i}",
        "split": "val",
        "split_type": "indomain",
        "label": "0",
    }
    for i in range(2)
]
WINOGRANDE = [
    {"sentence": "Ann paid Sue because _ owed her money.", "option1": "Ann", "option2": "Sue", "answer": "1"},
    {"sentence": "Ann paid Sue because _ had worked.", "option1": "Ann", "option2": "Sue", "answer": "2"},
]


def _request(doc_id: int, name: str, query: str, choices: list[str], gold: int) -> dict:
    return {"doc_id": doc_id, "doc": {"id": name, "query": query, "choices": choices, "gold": gold}}


# As in the files: a line for each choice, and every question a second time under another doc_id.
OE_EVAL = [
    _request(number + 2 * copy, name, query, choices, gold)
    for copy in range(2)
    for number, name, query, choices, gold in (
        (0, "q1", "Question: What is  cold?\nAnswer: me\nAnswer:", ["ice", "fire", "steam"], 0),
        (1, "q2", "Question: What is hot?\nAnswer:", ["ice", "fire"], 1),
    )
    for _ in choices
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
