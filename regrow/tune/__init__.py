"""Fine-tuning: an adapter trained by TRL in a process that accelerate starts, merged into its parent."""

from regrow.tune.launch import tune
from regrow.tune.recipe import LoraSpec, Recipe
from regrow.tune.tuned import Tuned

__all__ = ["LoraSpec", "Recipe", "Tuned", "tune"]
