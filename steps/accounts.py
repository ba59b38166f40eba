"""What the stages of this run took, from ZenML's own record."""

from zenml import get_step_context
from zenml.client import Client

_STAGES = (
    "load_model",
    "compute_layer_importance",
    "prune",
    "generate_self_data",
    "validate_data",
    "fine_tune",
    "evaluate",
    "merge",
)


def usage() -> tuple[dict[str, float], int]:
    """Return seconds by stage and the peak memory in bytes of every finished step of this run.

    A cached step counts with the time and memory of the run that made its result.
    """
    client = Client()
    seconds: dict[str, float] = {}
    peak = 0
    for name, step in client.get_pipeline_run(get_step_context().pipeline_run.id).steps.items():
        made = client.get_run_step(step.original_step_run_id) if step.original_step_run_id else step
        stage = next((one for one in _STAGES if name.startswith(one)), None)
        if stage and "seconds" in made.run_metadata:
            seconds[stage] = round(seconds.get(stage, 0.0) + float(made.run_metadata["seconds"]), 2)
            peak = max(peak, int(made.run_metadata["peak_memory_bytes"]))
    return seconds, peak
