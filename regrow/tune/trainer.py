"""TRL's trainer, with a loss that suits CPUs, a log for every step, and checkpoints that are whole or absent.

Imported by the worker alone: this module pulls in torch and TRL.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from regrow.errors import RegrowError
from regrow.tune.job import EVENT, Job

# What some architectures do to the logits after the output head, or add to the loss; those take TRL's path.
_HEAD_EXTRAS = (
    "final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier",
    "router_aux_loss_coef",
)  # fmt: skip
_CHUNK = 512  # positions whose logits exist at once
_WHOLE = "whole"  # the file in a checkpoint that is written after all others


class Trainer(SFTTrainer):  # type: ignore[misc]
    """SFT on tokenized examples.

    Args:
        job: the job; its folder receives log.jsonl.
        earlier: the log of the steps before the checkpoint that will be resumed.
        kwargs: what `trl.SFTTrainer` takes.
    """

    def __init__(self, *, job: Job, earlier: list[dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tokens = earlier[-1]["tokens"] if earlier else 0
        text = self.model.config.get_text_config()
        head = self.model.get_output_embeddings()
        self._plain_head = (
            self.args.use_cpu
            and type(head) is torch.nn.Linear
            and not head.weight.requires_grad
            and not any(getattr(text, name, None) for name in _HEAD_EXTRAS)
        )
        self.add_callback(_Record(job.folder / "log.jsonl", earlier, self))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean negative log-likelihood of response tokens, in nats."""
        if self._plain_head and not return_outputs:
            loss = self._loss_on_cpu(model, inputs, num_items_in_batch)
        else:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        value = loss[0] if return_outputs else loss
        if not torch.isfinite(value):
            raise RegrowError(
                f"step {self.state.global_step + 1}: the loss is {value.item()}; "
                "lower recipe.learning_rate (or look at the data of this step)"
            )
        mask = inputs["attention_mask"].sum()
        self._tokens += int(self.accelerator.gather(mask).sum()) if self.model.training else 0
        return loss

    def _loss_on_cpu(self, model: Any, inputs: dict[str, Any], items: Any) -> torch.Tensor:
        # Without Triton, TRL's fused head multiplies every position with the vocabulary, three times; positions
        # without a loss (prompts, padding) need none of that, and a frozen head needs it only twice.
        causal = self.accelerator.unwrap_model(model).get_base_model()
        labels = inputs["labels"][:, 1:]
        learn = labels != -100
        with self.accelerator.autocast():
            hidden = causal.base_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).last_hidden_state[:, :-1]
            head = causal.get_output_embeddings()
            total = FrozenHeadLoss.apply(hidden[learn], head.weight, head.bias, labels[learn])  # type: ignore[no-untyped-call]
        return total / (learn.sum() if items is None else items).clamp(min=1)

    @property
    def tokens(self) -> int:
        """Tokens seen so far, without padding, by all processes."""
        return self._tokens

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints of an unfinished run need no model card."""


class FrozenHeadLoss(torch.autograd.Function):
    """Summed negative log-likelihood through an output head that is not trained.

    The gradient for the hidden states is taken in the forward pass, while a chunk's logits are at hand:
    peak memory is one chunk of logits, and nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the sum over positions, in nats.

        Args:
            ctx: autograd's context.
            hidden: last hidden states, (positions, d).
            weight: the head, (vocabulary, d).
            bias: its bias, (vocabulary,), or none.
            labels: the token that follows each position, (positions,).
        """
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32)
        for start in range(0, len(hidden), _CHUNK):
            part = slice(start, start + _CHUNK)
            logits = F.linear(hidden[part], weight, bias).to(total.dtype)
            normalizer = logits.logsumexp(-1, keepdim=True)
            target = labels[part, None]
            total += (normalizer - logits.gather(-1, target)).sum()
            logits.sub_(normalizer).exp_()
            logits.scatter_add_(-1, target, logits.new_full(target.shape, -1.0))
            gradient[part] = logits.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Scale the gradient that the forward pass has taken."""
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None


class _Record(TrainerCallback):  # type: ignore[misc]
    """Writes log.jsonl, tells the parent, and marks finished checkpoints."""

    def __init__(self, path: Path, earlier: list[dict[str, Any]], trainer: Trainer) -> None:
        self._path, self._trainer = path, trainer
        self._before = earlier[-1]["seconds"] if earlier else 0.0
        self._last = (self._before, trainer.tokens)
        self._started = time.monotonic()
        path.write_text("".join(json.dumps(entry) + "\n" for entry in earlier), encoding="utf-8")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.monotonic()
        if state.is_world_process_zero:
            self._tell({"steps": state.max_steps, "resumed_from": state.global_step})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        seconds = self._before + time.monotonic() - self._started
        tokens = self._trainer.tokens
        then, had = self._last
        self._last = (seconds, tokens)
        entry = {
            "step": state.global_step,
            "loss": round(float(logs["loss"]), 6),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": round(float(logs.get("grad_norm", math.nan)), 6),
            "tokens": tokens,
            "tokens_per_second": round((tokens - had) / max(seconds - then, 1e-9), 1),
            "seconds": round(seconds, 3),
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        self._tell(entry)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / _WHOLE).touch()

    @staticmethod
    def _tell(event: dict[str, Any]) -> None:
        print(EVENT + json.dumps(event), flush=True)  # noqa: T201 - the parent reads this pipe


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints of an interrupted run, oldest first."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{_WHOLE}")]
    return sorted(found, key=lambda path: int(path.name.split("-")[-1]))
