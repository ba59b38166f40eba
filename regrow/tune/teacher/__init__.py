"""The unpruned teacher's top-k log-probabilities, written beforehand and read while a student is trained."""

from regrow.tune.teacher.store import TopKLogits
from regrow.tune.teacher.vocabulary import same_vocabulary, vocabulary_size
from regrow.tune.teacher.write import write_top_k

__all__ = ["TopKLogits", "same_vocabulary", "vocabulary_size", "write_top_k"]
