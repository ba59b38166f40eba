"""The unpruned teacher's top-k log-probabilities, written beforehand and read while a student is trained."""

from regrow.tune.teacher.store import TopKLogits, loss_positions
from regrow.tune.teacher.vocabulary import same_vocabulary, vocabulary_size
from regrow.tune.teacher.write import write_top_k

__all__ = ["TopKLogits", "loss_positions", "same_vocabulary", "vocabulary_size", "write_top_k"]
