"""The ten steps of the pipeline: types in, types out, a call into regrow/, facts logged, nothing else."""

import materializers  # noqa: F401 - registers how the steps' artifacts are stored
from steps.compute_layer_importance import compute_layer_importance
from steps.evaluate import evaluate
from steps.fine_tune import fine_tune
from steps.generate_self_data import generate_self_data
from steps.load_model import load_model
from steps.measure_shift import measure_shift
from steps.merge import merge
from steps.prune import prune
from steps.register import register
from steps.validate_data import validate_data

__all__ = [
    "compute_layer_importance",
    "evaluate",
    "fine_tune",
    "generate_self_data",
    "load_model",
    "measure_shift",
    "merge",
    "prune",
    "register",
    "validate_data",
]
