"""The gate: what passes here may ask for a GPU."""

from typing import Annotated

from zenml import save_artifact, step

from regrow import quality, records
from regrow.checkpoint import Checkpoint
from regrow.evaluate import EvaluateSpec, task_texts
from regrow.quality import GateResult, GateSpec
from regrow.selfdata import SelfData, answers, prompts, rule
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import fresh, measured, work_dir


@step(
    experiment_tracker=True,
    cache_policy=depends_on(quality, records, answers, prompts, rule),
)
def validate_data(
    data: SelfData, base: Checkpoint, name: str, gate: GateSpec, evaluation: EvaluateSpec
) -> tuple[Annotated[SelfData, "accepted"], Annotated[GateResult, "gate"]]:
    """Take evaluation items out and hold the rest against its suite (regrow.quality.pass_gate).

    Raises:
        GateFailedError: the gate was not passed; the verdict is kept as an artifact.
    """
    with measured():
        passage = quality.pass_gate(
            data,
            gate,
            name,
            fresh(work_dir() / "accepted"),
            fresh(work_dir() / "gate"),
            tokenizer=base.chat_tokenizer(),
            eval_texts=task_texts(evaluation),
        )
        log_stage(f"validate_data.{name}", gate, passage.result)
        if passage.accepted is None:
            # A failing step keeps no outputs: without this the dashboard would not show why.
            save_artifact(passage.result, f"failed_gate_{name}")
        return passage.accepted_or_stop(), passage.result
