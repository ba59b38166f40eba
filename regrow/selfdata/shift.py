"""How far answers lie from the model: the reason why self-data works, measured.

Fine-tuning on answers that the model itself would give moves it less than fine-tuning on somebody else's (SDFT,
arXiv 2402.13669, sections 2 and 5). Two measures tell whether the rewrites are such: what the unpruned model
thinks of each rewrite and of the reference that it replaced (perplexity per token, given the bare question), and
whether they still say the same (cosine of their sentence embeddings).
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from regrow.meaning import cosines
from regrow.selfdata.prompts import student_tokens
from regrow.selfdata.rule import REWRITTEN
from regrow.selfdata.store import SelfData
from regrow.source import EncoderSpec

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint


class ShiftSpec(BaseModel):
    """How much of a set is compared, and with which encoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(
        200, ge=1, description="rewritten records compared, the first ones; all if there are fewer"
    )
    encoder: EncoderSpec | None = Field(
        default_factory=lambda: EncoderSpec(),
        description="sentence-transformers model for the embeddings; null: perplexity only",
    )
    max_tokens: int = Field(1024, ge=8, description="tokens read of a question with its answer")
    batch_size: int = Field(8, ge=1, description="conversations in one forward pass")


class Shift(BaseModel):
    """Rewrites against the references that they replaced, record by record, in the order of the set."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    dataset: str
    data_digest: str = Field(description="digest of the set")
    model: str = Field(description="digest of the unpruned model")
    encoder: str | None = Field(description="source of the encoder")
    rewrite_loss: list[float] = Field(
        description="mean negative log-likelihood of a rewrite's token, in nats"
    )
    reference_loss: list[float] = Field(description="the same of the reference")
    similarity: list[float] | None = Field(description="cosine of the embeddings of rewrite and reference")

    def summary(self) -> dict[str, Any]:
        """The figures in short; empty if nothing was rewritten.

        `rewrite_perplexity` and `reference_perplexity` are exp of the mean over records; `closer` is the share
        of records whose rewrite is likelier, token for token, than its reference.
        """
        if not self.rewrite_loss:
            return {"records": 0}
        pairs = list(zip(self.rewrite_loss, self.reference_loss, strict=True))
        found: dict[str, Any] = {
            "records": len(pairs),
            "rewrite_perplexity": round(math.exp(fmean(self.rewrite_loss)), 4),
            "reference_perplexity": round(math.exp(fmean(self.reference_loss)), 4),
            "closer": round(sum(ours < theirs for ours, theirs in pairs) / len(pairs), 4),
        }
        if self.similarity:
            found["similarity"] = round(fmean(self.similarity), 4)
        return found


def measure(base: "Checkpoint", data: SelfData, name: str, spec: ShiftSpec) -> Shift:
    """Compare the rewrites of a set with the references that they replaced.

    Args:
        base: the unpruned model; needs a chat template.
        data: what `distill` wrote.
        name: what the result calls the set.
        spec: how many records, and the encoder.

    Raises:
        InputError: the encoder cannot be had or opened, or the chat template leaves the answer out.
    """
    import torch

    rows = [row for row in data.rows() if row["decision"] == REWRITTEN][: spec.limit]
    tokenizer, model = base.chat_tokenizer(), base.load()
    read, ours, theirs = [], [], []
    for row in rows:
        rewrite = student_tokens(tokenizer, row)
        reference = student_tokens(tokenizer, row | {"response": row["reference"]})
        # A question that fills all that is read leaves nothing of the answers to compare.
        if max(rewrite[1], reference[1]) < spec.max_tokens:
            read.append(row)
            ours.append(rewrite)
            theirs.append(reference)
    with torch.inference_mode():
        losses = _losses(ours + theirs, model, spec)
    return Shift(
        dataset=name,
        data_digest=data.digest,
        model=base.digest,
        encoder=spec.encoder.source if spec.encoder else None,
        rewrite_loss=losses[: len(read)],
        reference_loss=losses[len(read) :],
        similarity=cosines(
            [row["response"] for row in read],
            [row["reference"] for row in read],
            spec.encoder,
            "shift.encoder",
        )
        if spec.encoder and read
        else None,
    )


def _losses(rows: Sequence[tuple[list[int], int]], model: Any, spec: ShiftSpec) -> list[float]:
    """Return the mean negative log-likelihood of each answer's tokens, given its question."""
    losses = [0.0] * len(rows)
    with tqdm(total=len(rows), desc="shift", unit="answer") as bar:
        for chosen in _batches([len(ids) for ids, _ in rows], spec.batch_size):
            found = _batch([rows[i] for i in chosen], model, spec.max_tokens)
            for i, loss in zip(chosen, found, strict=True):
                losses[i] = round(loss, 6)
            bar.update(len(chosen))
    return losses


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Group rows of like length, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _batch(rows: Sequence[tuple[list[int], int]], model: Any, most: int) -> list[float]:
    import torch
    import torch.nn.functional as F

    # Padding stands at the end, where no token of a causal model can see it.
    cut = [ids[:most] for ids, _ in rows]
    width = max(map(len, cut))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in cut], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in cut], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    losses = []
    for row, scores, (_, start), kept in zip(ids, logits, rows, cut, strict=True):
        first, end = max(1, start), len(kept)
        losses.append(float(F.cross_entropy(scores[first - 1 : end - 1].float(), row[first:end])))
    return losses
