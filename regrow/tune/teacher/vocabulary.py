"""Whether two models mean the same token by the same number, told without loading their weights."""

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError


def vocabulary_size(checkpoint: Checkpoint) -> int:
    """Return how many logits a model gives for a token.

    Raises:
        InputError: the configuration does not say.
    """
    config = checkpoint.config
    config = config.get("text_config", config)
    if not isinstance(size := config.get("vocab_size"), int):
        raise InputError(f"{checkpoint.folder / 'config.json'}: no vocab_size; unknown architecture")
    return size


def same_vocabulary(teacher: Checkpoint, student: Checkpoint) -> None:
    """Check that a teacher's logits can be compared with a student's, token by token.

    Raises:
        InputError: the numbers of logits differ, or a token id stands for different tokens.
    """
    pair = f"{teacher.folder} and {student.folder}: different vocabularies"
    remedy = "distil into a student that was pruned from this teacher"
    sizes = vocabulary_size(teacher), vocabulary_size(student)
    if sizes[0] != sizes[1]:
        raise InputError(f"{pair}: the teacher has {sizes[0]} tokens, the student {sizes[1]}; {remedy}")
    theirs, ours = _tokens(teacher), _tokens(student)
    if theirs == ours:
        return
    number = min(i for i in theirs.keys() | ours.keys() if theirs.get(i) != ours.get(i))
    raise InputError(
        f"{pair}: token {number} is {_named(theirs, number)} in the teacher, "
        f"{_named(ours, number)} in the student; {remedy}"
    )


def _tokens(checkpoint: Checkpoint) -> dict[int, str]:
    return {number: token for token, number in checkpoint.tokenizer().get_vocab().items()}


def _named(tokens: dict[int, str], number: int) -> str:
    return repr(tokens[number]) if number in tokens else "missing"
