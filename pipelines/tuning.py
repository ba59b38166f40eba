"""How a pipeline tunes one model: in one step, or in several pods that run one command."""

from typing import Any

from zenml.steps.command_step import CommandStep

import steps
from regrow.tune.pods import command
from regrow.tune.recipe import Recipe


def fine_tune(
    pruned: Any, accepted: Any, name: str, recipe: Recipe, teacher: Any | None, *, id: str, pods: int = 1
) -> tuple[Any, Any]:
    """Add the steps that tune a model to the pipeline that is being built.

    Args:
        pruned: the model, as a step's output.
        accepted: the data that passed the gate, as a step's output.
        name: of the set.
        recipe: how to train.
        teacher: the unpruned model as a step's output, for methods that distil from it.
        id: of the step that trains.
        pods: how many share the training. ZenML has a step run in several pods only if it is a command without inputs
            and outputs; a step before it lays both out on the volume that the pods share, one after it collects.

    Returns:
        The tuned model and the record of its training, as outputs of a step.
    """
    if pods == 1:
        return steps.fine_tune(pruned, accepted, name, recipe, teacher, id=id)
    folder = f"pods/{id}"
    laid_out = steps.lay_out_tuning(pruned, accepted, folder, recipe, teacher, id=f"lay_out_{id}")
    train = CommandStep(command(f"$REGROW_WORK/{folder}", teacher=teacher is not None), name="fine_tune")
    train(id=id, after=f"lay_out_{id}")
    return steps.collect_tuning(laid_out, folder, name, recipe, id=f"collect_{id}", after=id)
