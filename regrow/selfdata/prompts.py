"""Prompts of self-data distillation: what the unpruned model is asked, and what the student will see.

A template is a text file with the sections `[user]` (required), `[system]` and `[assistant]` (a start of
the answer that is put into the model's mouth). `{{instruction}}` and `{{reference}}` stand for the
record's texts. The idea, not the wording, is that of SDFT (arXiv 2402.13669, section 3).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAMILIES = ("choice", "math", "text", "open")
_SECTION = re.compile(r"^\[(system|user|assistant)\][ \t]*$", re.MULTILINE)
_FIELD = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed prompt template; `assistant` is the prefix of the model's answer."""

    name: str
    user: str
    system: str = ""
    assistant: str = ""

    @property
    def shows_reference(self) -> bool:
        """Whether the model that rewrites sees the reference answer."""
        return "reference" in _FIELD.findall(self.system + self.user)

    def messages(self, record: Any) -> list[dict[str, str]]:
        """Return the system and user turns for a record (or a row with the same fields)."""
        values = {"instruction": question(record), "reference": _field(record, "reference")}
        turns = [{"role": "system", "content": self.system}] if self.system else []
        turns.append({"role": "user", "content": self.user})
        # One pass, so that braces inside a record's own text stay as they are.
        return [
            {"role": turn["role"], "content": _FIELD.sub(lambda m: values[m[1]], turn["content"])}
            for turn in turns
        ]


def load_template(name: str, family: str, *, use_reference: bool = True) -> Template:
    """Find and parse a template.

    Args:
        name: "auto" (the family's own), the name of a packaged template, or the path of a text file.
        family: choice, math, text or open.
        use_reference: whether the template must show the reference answer, or must not.

    Raises:
        InputError: there is no such template, it is malformed, or contradicts `use_reference`.
    """
    if family not in FAMILIES:
        raise InputError(f"family: {family!r} is unknown; use one of {', '.join(FAMILIES)}")
    if name == "auto":
        name = family if use_reference else f"{family}-fresh"
    packaged = files("regrow.selfdata").joinpath("templates")
    names = sorted(
        entry.name.removesuffix(".txt") for entry in packaged.iterdir() if entry.name.endswith(".txt")
    )
    if name in names:
        text = packaged.joinpath(f"{name}.txt").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise InputError(f"template: {name!r} is neither a file nor one of auto, {', '.join(names)}")
    template = parse_template(name, text)
    if use_reference and not template.shows_reference:
        raise InputError(f"template {name}: has no {{{{reference}}}}; add it or set use_reference: false")
    if not use_reference and template.shows_reference:
        raise InputError(f"template {name}: shows {{{{reference}}}}; take it out or set use_reference: true")
    return template


def parse_template(name: str, text: str) -> Template:
    """Parse a template's text.

    Raises:
        InputError: no `[user]` section, a section twice, text before the first, or an unknown field.
    """
    before, *parts = _SECTION.split(text)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    if before.strip() or len(sections) != len(parts) // 2 or "user" not in sections:
        raise InputError(f"template {name}: needs a [user] section, each section at most once")
    for field in _FIELD.findall(text):
        if field not in ("instruction", "reference"):
            raise InputError(f"template {name}: unknown field {{{{{field}}}}}; use instruction or reference")
    if "instruction" not in _FIELD.findall(sections["user"]):
        raise InputError(f"template {name}: [user] has no {{{{instruction}}}}")
    if _FIELD.search(sections.get("assistant", "")):
        raise InputError(f"template {name}: [assistant] is a fixed text and takes no fields")
    return Template(name, **{section: body.strip() for section, body in sections.items()})


def render(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], prefix: str = "") -> str:
    """Return the text that the model continues; tokenize it without adding special tokens.

    A chat template that refuses the system role, or drops its text, gets the system text at the head of
    the user turn instead.

    Raises:
        InputError: the chat template refuses even a plain user turn.
    """
    from jinja2 import TemplateError

    def apply(turns: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    system = next((turn["content"] for turn in messages if turn["role"] == "system"), "")
    if system:
        try:
            text = apply(messages)
        except TemplateError:
            text = ""
        if system.strip() in text:
            return text + prefix
        messages = fold_system(messages)
    try:
        return apply(messages) + prefix
    except TemplateError as error:
        raise InputError(f"chat template: refuses a conversation of one user turn ({error})") from error


def fold_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Move the system text to the head of the first user turn."""
    system = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "system")
    rest = [dict(turn) for turn in messages if turn["role"] != "system"]
    rest[0]["content"] = f"{system}\n\n{rest[0]['content']}"
    return rest


def question(record: Any) -> str:
    """Return what a record asks: its instruction and, below it, its input if it has one."""
    instruction, extra = _field(record, "instruction"), _field(record, "input")
    return f"{instruction}\n\n{extra}" if extra.strip() else instruction


def student_messages(row: Any) -> list[dict[str, str]]:
    """Return the student's training conversation: the bare question, and the row's response.

    The student never sees the reference answer nor the teacher's system text (SDFT, section 3).
    """
    return [
        {"role": "user", "content": question(row)},
        {"role": "assistant", "content": _field(row, "response")},
    ]


def student_tokens(tokenizer: "PreTrainedTokenizerBase", row: Any) -> tuple[list[int], int]:
    """Return the tokens of the student's conversation, and how many of them are the question.

    Raises:
        InputError: the chat template has no place for the response.
    """
    user, assistant = student_messages(row)
    prompt = _ids(tokenizer, [user], add_generation_prompt=True)
    whole = _ids(tokenizer, [user, assistant], add_generation_prompt=False)
    start = _common_prefix(prompt, whole)
    if start == len(whole):
        raise InputError("chat template: leaves out the assistant's turn; the model has no text to learn")
    return whole, start


def _ids(
    tokenizer: "PreTrainedTokenizerBase", turns: list[dict[str, str]], *, add_generation_prompt: bool
) -> list[int]:
    encoded = tokenizer.apply_chat_template(
        turns, tokenize=True, add_generation_prompt=add_generation_prompt, return_dict=True
    )
    return list(encoded["input_ids"])


def _common_prefix(prompt: list[int], whole: list[int]) -> int:
    # Templates that render the open assistant turn differently from a finished one (an empty thinking
    # section, a stripped space) part before the prompt's end; the response starts where they part.
    for i, (a, b) in enumerate(zip(prompt, whole, strict=False)):
        if a != b:
            return i
    return min(len(prompt), len(whole))


def _field(record: Any, name: str) -> str:
    value = record.get(name) if isinstance(record, Mapping) else getattr(record, name, None)
    return "" if value is None else str(value)
