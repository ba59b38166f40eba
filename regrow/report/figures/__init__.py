"""The plots of a report, as SVG that stands in a page by itself."""

from regrow.report.figures.arms import (
    Difference,
    Panel,
    Point,
    differences_svg,
    points_svg,
    similarity_svg,
    task_differences_svg,
)
from regrow.report.figures.cost import Model, front, pareto_svg
from regrow.report.figures.data import decisions_svg, shift_svg
from regrow.report.figures.importance import heatmap_svg, influence_svg, sizes_svg, trials_svg
from regrow.report.figures.models import models_svg, scores_svg
from regrow.report.figures.tuning import loss_svg, losses_svg

__all__ = [
    "Difference",
    "Model",
    "Panel",
    "Point",
    "decisions_svg",
    "differences_svg",
    "front",
    "heatmap_svg",
    "influence_svg",
    "loss_svg",
    "losses_svg",
    "models_svg",
    "pareto_svg",
    "points_svg",
    "scores_svg",
    "shift_svg",
    "similarity_svg",
    "sizes_svg",
    "task_differences_svg",
    "trials_svg",
]
