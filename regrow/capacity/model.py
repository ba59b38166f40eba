"""A model's sizes in the terms of the formulas; every number comes from its configuration and tensors' shapes.

- weights: parameters x bytes of the type that is computed in;
- cache: 2 x blocks x KV groups x head size x bytes, for a token of one sequence;
- working: bytes x max(3 neurons + 4 channels, 4 channels + 4 (heads + KV groups) x head size), for a token of a forward
  pass without gradients: the widest moment of a block, in the MLP or in attention (fused, so no scores);
- logits: (bytes + 8) x vocabulary, for a position whose logits are looked at: float32 and its log-softmax besides;
- forward: operations of a token, by `regrow.evaluate.cost`.
"""

from dataclasses import dataclass
from functools import lru_cache

from regrow.anatomy import widths_of
from regrow.capacity.device import Device
from regrow.capacity.need import Work
from regrow.capacity.paper import Paper, largest_block, largest_tensor
from regrow.checkpoint import DTYPES
from regrow.evaluate.cost import cost

# What torch, transformers and their imports hold in host memory; measured for `regrow.tune.estimate`: 526 to 540 MiB.
LIBRARIES = 540 * 2**20
# CUDA's context and the libraries' kernels and workspaces: an allowance, not measured.
CONTEXT = 600 * 2**20
_ITEM = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Sizes:
    """A model in a type, on a device."""

    paper: Paper
    dtype: str

    @property
    def item(self) -> int:
        """Bytes of a weight, and of an activation."""
        return _ITEM[self.dtype]

    @property
    def weights(self) -> int:
        """Bytes of the loaded model."""
        return self.paper.parameters * self.item

    @property
    def stored(self) -> int:
        """Bytes of the checkpoint's weights on disk."""
        return self.paper.nbytes

    @property
    def cache(self) -> int:
        """Bytes of keys and values that a token takes. Sliding windows are not subtracted."""
        one = widths_of(self.paper.config, self.paper.named)
        return 2 * self.paper.blocks * one.groups * one.head_dim * self.item

    @property
    def working(self) -> int:
        """Bytes that a token takes while a block computes."""
        one = widths_of(self.paper.config, self.paper.named)
        mlp = 3 * one.neurons + 4 * one.channels
        attention = 4 * one.channels + 4 * (one.heads + one.groups) * one.head_dim
        return max(mlp, attention) * self.item

    @property
    def state(self) -> int:
        """Bytes of a token's hidden state."""
        return widths_of(self.paper.config, self.paper.named).channels * self.item

    @property
    def vocabulary(self) -> int:
        """Entries of the output head."""
        return int(self.paper.config["vocab_size"])

    @property
    def logits(self) -> int:
        """Bytes of a position's logits, with their copies in float32."""
        return (self.item + 8) * self.vocabulary

    @property
    def block(self) -> int:
        """Bytes of the largest block."""
        return largest_block(self.paper) * self.item

    @property
    def outside(self) -> int:
        """Bytes of the embeddings: what is in no block, without an output head of its own."""
        return self.vocabulary * self.state

    @property
    def tensor(self) -> int:
        """Bytes of the largest tensor as stored."""
        return largest_tensor(self.paper) * (self.stored // self.paper.parameters)

    def forward(self, context: float) -> int:
        """Operations of a token that attends to so many positions, output head included."""
        return _forward(self.paper, max(1, round(context)))

    def backbone(self, context: float) -> int:
        """The same without the output head."""
        return self.forward(context) - 2 * self.vocabulary * self.state // self.item

    def reads(self, tokens: float, length: float, batch_tokens: float) -> Work:
        """Forward passes over many tokens; the weights are read once in a batch."""
        batches = max(1.0, tokens / max(1.0, batch_tokens))
        # A token of a text attends to half of it on average.
        return Work("forward", tokens * self.forward(length / 2), batches * self.weights)

    def writes(self, answers: float, tokens: float, prompt: float, rows: float, *, compiled: bool) -> Work:
        """Decoding: a token a step for every row; each step reads all weights, and the rows' keys and values."""
        steps = answers * tokens / max(1.0, min(rows, answers))
        context = prompt + tokens / 2
        return Work(
            "decode_compiled" if compiled else "decode",
            answers * tokens * self.forward(context),
            steps * self.weights + answers * tokens * context * self.cache,
            steps * self.paper.blocks,
        )


@lru_cache(maxsize=4096)
def _forward(model: Paper, context: int) -> int:
    return cost(model, context).flops_per_token


def sizes(model: Paper, device: Device, dtype: str = "auto") -> Sizes:
    """Return a model's sizes where it is computed in `dtype`; "auto" is the stored type where the device has it."""
    if dtype == "auto":
        names = {kind: name for name, kind in DTYPES.items()}
        dtype = names[model.shapes[0][1]] if device.halves else "float32"
    return Sizes(model, dtype)
