"""The gate: what passes here may ask for a GPU."""

from typing import Annotated

from zenml import save_artifact, step

from regrow import quality
from regrow.checkpoint import Checkpoint
from regrow.evaluate import EvaluateSpec, task_texts
from regrow.quality import GateResult, GateSpec, decontaminate, frame, suite
from regrow.selfdata import SelfData
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import fresh, measured, work_dir


@step(experiment_tracker=True, cache_policy=depends_on(suite, frame, decontaminate))
def validate_data(
    data: SelfData, base: Checkpoint, name: str, gate: GateSpec, evaluation: EvaluateSpec
) -> tuple[Annotated[SelfData, "accepted"], Annotated[GateResult, "gate"]]:
    """Take evaluation items out, then hold the rest against the suite (regrow.quality).

    Raises:
        GateFailedError: an expectation of severity `stop` failed; the verdict is kept as an artifact.
    """
    with measured():
        texts = task_texts(evaluation)
        accepted = quality.without_contamination(data, texts, fresh(work_dir() / "accepted"))
        result = quality.validate(accepted, gate, name, tokenizer=base.chat_tokenizer(), eval_texts=texts)
        log_stage(f"validate_data.{name}", gate, result)
        if not result.passed:
            # A failing step keeps no outputs: without this the dashboard would not show why.
            save_artifact(result, f"failed_gate_{name}")
        quality.enforce(result)
    return accepted, result
