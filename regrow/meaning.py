"""How alike two texts are in meaning: the cosine of their sentence embeddings."""

from collections.abc import Sequence

from regrow.errors import InputError
from regrow.source import EncoderSpec, fetch


def cosines(ours: Sequence[str], theirs: Sequence[str], spec: EncoderSpec, field: str) -> list[float]:
    """Return the cosine of each pair of texts, to six decimals.

    An encoder reads the beginning of a long text alone; all-MiniLM-L6-v2 its first 256 word pieces.

    Args:
        ours: one text of each pair.
        theirs: the other.
        spec: the sentence-transformers model.
        field: where the configuration names it, for messages.

    Raises:
        InputError: the encoder cannot be had, or is none.
    """
    from sentence_transformers import SentenceTransformer

    folder = fetch(spec.source, spec.sha256)
    try:
        encoder = SentenceTransformer(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{field}: {spec.source} is not a sentence-transformers model ({' '.join(str(error).split())[:200]})"
        ) from None
    # Each text once: what is said twice lies at the same place, to the last bit.
    texts = list(dict.fromkeys([*ours, *theirs]))
    places = {text: i for i, text in enumerate(texts)}
    found = encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    return [round(float(found[places[a]] @ found[places[b]]), 6) for a, b in zip(ours, theirs, strict=True)]
