"""TRL's trainer with our objectives, batches and checkpoints. Worker only: this module pulls in torch and TRL."""

from pathlib import Path
from typing import Any

import torch
from trl import SFTTrainer

from regrow.errors import RegrowError
from regrow.tune.callbacks import Divergence, Record, Stop
from regrow.tune.job import Job
from regrow.tune.losses import head_of
from regrow.tune.objective import Objective, Step
from regrow.tune.parameters import load_trained, save_trained
from regrow.tune.states import Probe

_TRAINED = "trained.safetensors"


class Trainer(SFTTrainer):  # type: ignore[misc]
    """Training on tokenized examples, towards an objective that is a sum over tokens.

    Args:
        job: the job; its folder receives log.jsonl.
        objective: what is minimised.
        rows: row of the data that each example comes from.
        depth: number of the model's blocks.
        earlier: the log of the steps before the checkpoint that will be resumed.
        kwargs: what `trl.SFTTrainer` takes.
    """

    def __init__(
        self,
        *,
        job: Job,
        objective: Objective,
        rows: list[int],
        depth: int,
        earlier: list[dict[str, Any]],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._job, self._objective, self._rows = job, objective, rows
        self._tokens = earlier[-1]["tokens"] if earlier else 0
        self._batch: list[int] = []
        causal = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        self._causal = causal
        recipe = job.recipe
        self._probe = Probe(
            causal,
            depth,
            block=getattr(recipe, "hidden_states", False),
            embedded=getattr(recipe, "embeddings", False),
        )
        self.stop = Stop(self)
        self.add_callback(Record(job.folder / "log.jsonl", earlier, self))
        self.add_callback(Divergence(recipe.diverges_at, [entry["loss"] for entry in earlier], self))
        self.add_callback(self.stop)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this pass's share of the step's mean loss per token, in nats."""
        labels, index = inputs.pop("labels"), inputs.pop("index")
        self._batch = [self._rows[number] for number in index.tolist()]
        model(**inputs, use_cache=False)
        step = Step(inputs, self._probe.taken(), head_of(self._causal), labels, index)
        total = self._objective(step)
        if not torch.isfinite(total):
            raise RegrowError(
                f"step {self.state.global_step + 1}: the loss is {total.item()} (batch: {self.batch}); lower "
                "recipe.learning_rate, or look at these rows"
            )
        seen = inputs["attention_mask"].sum() if "attention_mask" in inputs else inputs["input_ids"].numel()
        self._tokens += self._over_all(seen)
        items = step.learn.sum() if num_items_in_batch is None else num_items_in_batch
        # Every process divides by the tokens of all of them, and their gradients are averaged.
        return total / torch.as_tensor(items).clamp(min=1) * self.accelerator.num_processes

    def _over_all(self, count: Any) -> int:
        if self.accelerator.num_processes == 1:
            return int(count)
        return int(self.accelerator.reduce(torch.as_tensor(count, device=self.accelerator.device)))

    @property
    def tokens(self) -> int:
        """Tokens seen so far, without padding, by all processes."""
        return int(self._tokens)

    @property
    def batch(self) -> str:
        """The rows of the data in the last forward pass of this process."""
        return "rows " + ", ".join(map(str, self._batch)) + " of the data"

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # What is trained, and nothing of what is frozen: an adapter's checkpoint is megabytes, and types stay.
        if self._job.sharded:
            super()._save(output_dir, state_dict)
        elif self.args.should_save and output_dir:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_trained(self.accelerator.unwrap_model(self.model), Path(output_dir) / _TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._job.sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained(self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint) / _TRAINED)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints of an unfinished run need no model card."""
