"""Fine-tuning: a recipe carried out by TRL in processes that accelerate starts, and merged into a plain model."""

from regrow.tune.chain import tune
from regrow.tune.job import Launch
from regrow.tune.recipe import Recipe
from regrow.tune.tuned import Tuned

__all__ = ["Launch", "Recipe", "Tuned", "tune"]
