"""What a fine-tuning run is told: one model, discriminated by `method`, and the recipes that come with regrow."""

from regrow.tune.recipe.methods import (
    METHODS,
    Continual,
    Distill,
    Freeze,
    Phase,
    Recipe,
    Replay,
    Sft,
    TeacherCorrection,
    Training,
    needs_teacher,
)
from regrow.tune.recipe.named import named_recipes, read_recipe
from regrow.tune.recipe.trainable import KINDS, BitFit, Full, HeadAndLastK, Lora, Prefix, Trainable

# How pydantic names the alternatives of a recipe where it says what is wrong with one.
RECIPE_TAGS = frozenset(METHODS) | {kind.__name__ for kind in KINDS.values()}


__all__ = [
    "RECIPE_TAGS",
    "BitFit",
    "Continual",
    "Distill",
    "Freeze",
    "Full",
    "HeadAndLastK",
    "Lora",
    "Phase",
    "Prefix",
    "Recipe",
    "Replay",
    "Sft",
    "TeacherCorrection",
    "Trainable",
    "Training",
    "named_recipes",
    "needs_teacher",
    "read_recipe",
]
