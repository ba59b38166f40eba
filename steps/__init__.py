"""The steps of the pipelines: types in, types out, a call into regrow/, facts logged, nothing else."""

import materializers  # noqa: F401 - registers how the steps' artifacts are stored
from steps.compute_layer_importance import compute_layer_importance
from steps.evaluate import evaluate
from steps.fine_tune import fine_tune
from steps.generate_self_data import generate_self_data
from steps.load_model import load_model
from steps.measure_drift import measure_drift
from steps.measure_shift import measure_shift
from steps.measure_speed import measure_speed
from steps.merge import merge
from steps.mix_data import mix_data
from steps.promote import decide_promotion, promote
from steps.prune import prune
from steps.register import register
from steps.tabulate import tabulate
from steps.tune_in_pods import collect_tuning, lay_out_tuning
from steps.validate_data import validate_data

__all__ = [
    "collect_tuning",
    "compute_layer_importance",
    "decide_promotion",
    "evaluate",
    "fine_tune",
    "generate_self_data",
    "lay_out_tuning",
    "load_model",
    "measure_drift",
    "measure_shift",
    "measure_speed",
    "merge",
    "mix_data",
    "promote",
    "prune",
    "register",
    "tabulate",
    "validate_data",
]
