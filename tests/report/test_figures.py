import xml.etree.ElementTree as ET

import pytest

from regrow.report import figures, palette
from regrow.report.canvas import WIDTH, legend_columns
from regrow.report.evaluation import mean_interval
from regrow.report.numbers import between, p_text, points
from tests import example_run as example

STYLES = palette.arms({"a": False, "b": True, "c": True})


def model(name: str, cost: float, quality: float) -> figures.Model:
    return figures.Model(name, cost, quality, quality - 0.1, quality + 0.1)


def test_the_front_is_what_nothing_beats():
    known = (("a", 1.0, 0.6), ("b", 0.8, 0.5), ("c", 0.8, 0.55), ("d", 0.7, 0.5), ("e", 0.9, 0.5))
    models = [model(*one) for one in known]
    assert [one.name for one in figures.front(models)] == ["d", "c", "a"]
    assert [one.name for one in figures.front([model("a", 1.0, 0.4), model("b", 0.5, 0.5)])] == ["b"]
    twins = [model("a", 1.0, 0.4), model("b", 1.0, 0.4)]
    assert len(figures.front(twins)) == 1


def test_plots_are_svg_with_a_text_for_readers():
    places = [
        figures.Point(name, place, 50.0, 45.0, 56.0, (49.0, 51.0)) for name in STYLES for place in ("3", "6")
    ]
    differences = [
        figures.Difference("3 blocks", name, 0.02, -0.01, 0.05, name == "b", "note") for name in STYLES
    ]
    logs = {"3 blocks": {name: [[{"step": i, "loss": 2.0 - i / 900} for i in range(700)]] for name in STYLES}}
    drawn = [
        figures.points_svg([figures.Panel("title", places, "y", "x", 100.0, "unpruned")], STYLES),
        figures.differences_svg(differences, STYLES, "x"),
        figures.task_differences_svg({f"task {i}": differences for i in range(7)}, STYLES),
        figures.similarity_svg({name: {"3": [0.4, 0.9, 0.95, -0.1], "6": []} for name in STYLES}, STYLES),
        figures.pareto_svg([model(name, 0.8, 0.4) for name in STYLES], STYLES),
        figures.losses_svg(logs, STYLES),
    ]
    for svg in drawn:
        root = ET.fromstring(svg)
        assert len(root.attrib["aria-label"]) > 20
        assert root[0].text == root.attrib["aria-label"]
        assert "<text" in svg, "text must stay text"
        words = {one.text for one in root.iter("{http://www.w3.org/2000/svg}text")}
        assert set(STYLES) <= words
    assert drawn[0] == figures.points_svg(
        [figures.Panel("title", places, "y", "x", 100.0, "unpruned")], STYLES
    )
    assert len(drawn[5]) < 120_000, "long logs must not make huge pages"


def test_significance_is_seen_without_colour():
    def fills(significant: bool) -> int:
        row = figures.Difference("", "b", 0.02, 0.01, 0.03, significant)
        return figures.differences_svg([row], STYLES, "x").count("fill: #ffffff")

    assert fills(False) == fills(True) + 1


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_a_legend_is_not_wider_than_its_figure(count: int):
    from regrow.report.canvas import canvas

    names = [f"self-data fine-tuning {i}" for i in range(count)]
    with canvas(3.0) as (figure, save):
        axes = figure.subplots()
        for name in names:
            axes.plot([0, 1], [0, 1], label=name)
        legend = figure.legend(ncols=legend_columns(names), loc="outside lower center")
        save("a figure with a legend")
        box = legend.get_window_extent()
        assert box.width / figure.dpi <= WIDTH


def test_the_interval_of_a_mean_score_is_that_of_its_tasks():
    scores = example.scores("base", 0.5, tasks={"piqa": 400})
    low, high = mean_interval(scores)
    score = scores.scores["piqa"]
    assert (high + low) / 2 == pytest.approx(score.value)
    assert (high - low) / 2 == pytest.approx(1.96 * score.stderr, rel=1e-6)
    bare = score.model_copy(update={"items": (), "stderr": None})
    assert mean_interval(scores.model_copy(update={"scores": {"piqa": bare}})) == (None, None)


def test_numbers_are_written_for_readers():
    assert points(-0.0312) == "\u22123.1"
    assert points(0.0004) == points(-0.0004) == "0.0"
    assert between(0.5, None) == ""
    assert between(-0.01, 0.02, signed=True) == "\u22121.0 to +2.0"
    assert p_text(0.0001) == "p\u00a0<\u00a00.001"
    assert p_text(0.04) == "p\u00a0=\u00a00.040"
    assert p_text(None) == "p unknown"
