import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from regrow import report
from regrow.report import figures
from regrow.report.palette import colours
from tests.example_run import details, measures, run_models, summary
from tests.report.page import Page


@pytest.fixture(scope="module")
def page_text() -> str:
    return report.html(summary(), None, details())


def test_the_table_is_aligned_and_complete():
    lines = report.table(summary()).splitlines()
    assert [line.split()[0] for line in lines[2:]] == [
        "base",
        "pruned",
        "tuned-alpaca",
        "tuned-sciq",
        "merged",
    ]
    assert lines[0].split() == [
        "model", "parameters", "FLOPs/token", "perplexity", "arc_easy", "openbookqa", "hellaswag", "recovery",
    ]  # fmt: skip
    assert len({len(line) for line in lines}) == 1
    assert "113 M" in lines[3]
    assert "63.10" in lines[3]
    assert "44.0 ±3.4" in lines[3]
    assert lines[3].endswith("85.5 % (79 to 92)")


def test_the_table_takes_bare_numbers_and_what_was_not_measured():
    run = summary()
    run["models"][0]["scores"] = {"arc_easy": 0.5}
    run["models"][1] |= {"perplexity": math.inf, "recovery": None}
    run["models"][2]["perplexity"] = None
    run["models"][3]["perplexity"] = 123456.0
    lines = report.table(run).splitlines()
    assert lines[2].split()[6:8] == ["50.0", "-"]
    assert "infinite" in lines[3]
    assert lines[3].endswith(" -")
    assert lines[4].split()[5] == "-"
    assert "1.23e+05" in lines[5]


def test_the_headline_says_the_numbers():
    said = report.headline(summary(), details())
    for part in (
        "merged",
        "95.4 %",
        "89 to 102",
        "84 %",
        "6 of 30 blocks",
        "85.5 %",
        "24.50 to 63.10",
        "46.10",
    ):
        assert part in said


def test_the_page_stands_alone(page_text, run_page):
    assert Page(page_text).faults == []
    assert run_page.faults == []


def test_text_from_data_is_escaped(page_text):
    assert "<script>" not in page_text
    assert "&lt;script&gt;alert(1)" in page_text
    run = summary()
    run["models"][4]["name"] = "<b>x</b>"
    for text in (report.html(run, None, details()), figures.models_svg(run["models"])):
        assert "<b>" not in text


def test_every_section_has_its_numbers(page_text):
    text = Page(page_text).text
    for part in (
        "blocks: 13:19",
        "6 of 30 blocks",
        "0.1034",
        "kept: answer differs",
        "make sugar of it",
        "acceptance rate",
        "warning",
        "97 of them, 44.0",
        "regrow-demo",
        "4" * 64,
        "a" * 64,
        "5 min 12 s",
        "3.2 GiB",
        "blocks: 6",
        "12,345 tokens",
    ):
        assert part in text, part
    assert page_text.count('<svg role="img"') == 7


def test_without_details_the_page_is_the_summary():
    page = Page(report.html(summary()))
    assert "Which blocks matter" not in page.text
    assert "merged" in page.text
    own = report.html(summary(), {"models": "<svg><title>mine</title></svg>"})
    assert "<title>mine</title>" in own


def test_a_run_without_tasks_and_with_a_ruined_model():
    run = summary()
    for model in run["models"]:
        model |= {"scores": {}, "recovery": None, "recovery_interval": None}
    run["models"][1]["perplexity"] = math.inf
    page = Page(report.html(run, None, details()))
    assert "has 84 % of the base model's parameters" in page.text.replace("\u00a0", " ")
    assert "from 24.50 to infinite" in page.text


@pytest.mark.parametrize("removed", [(), (13, 14, 15, 16, 17, 18), (3, 9)])
def test_plots_are_svg_with_a_text_for_readers(removed):
    run, parts = summary(), details()
    drawn = [
        figures.heatmap_svg(parts["importance"]["angular_distance"], removed),
        figures.influence_svg(parts["importance"]["block_influence"], removed),
        figures.sizes_svg({"last token": [0.1, 0.2, 0.4], "all tokens": [0.1, 0.3, 0.3]}, 2),
        figures.trials_svg({3: [20.0, 900.0, math.inf], 6: [40.0, 80.0]}, "perplexity"),
        figures.models_svg(run["models"]),
        figures.scores_svg(run["models"]),
        figures.loss_svg(parts["logs"]),
        figures.decisions_svg(parts["decisions"]),
    ]
    for svg in drawn:
        root = ET.fromstring(svg)
        assert root.tag.endswith("svg")
        assert len(root.attrib["aria-label"]) > 20
        assert root[0].tag.endswith("title")
        assert root[0].text == root.attrib["aria-label"]
        assert "<text" in svg, "text must stay text"
    assert drawn[0] == figures.heatmap_svg(parts["importance"]["angular_distance"], removed)
    assert ("removed: blocks 13 to 18" in drawn[0]) == (len(removed) == 6)


def test_every_cell_of_the_heatmap_has_its_colour():
    svg = figures.heatmap_svg([[0.0, 1.0], [0.5, None]])
    # The ends of viridis, and nothing for the run that would pass the last block.
    cells = re.findall(r"fill: (#[0-9a-f]{6})", svg)
    assert "#440154" in cells
    assert "#fde725" in cells


def test_deep_models_do_not_make_huge_pages():
    distance = [[0.1 * size / (start + 1) for start in range(80)] for size in range(80)]
    assert len(figures.heatmap_svg(distance)) < 300_000


def test_models_keep_their_colour():
    colour = colours(["base", "pruned", "tuned-a", "tuned-b", "merged"])
    assert len(set(colour.values())) == 5
    assert colours(["merged"])["merged"] == colour["merged"]


def test_samples_show_every_decision():
    rows = [{"decision": "rewritten", "id": i} for i in range(9)]
    rows += [{"decision": "kept: empty", "id": i} for i in range(9)]
    rows.insert(0, {"decision": "kept: unfinished", "id": 0})
    chosen = report.sample_rewrites(rows)
    assert [row["decision"] for row in chosen] == ["rewritten"] * 3 + ["kept: unfinished", "kept: empty"]


def test_pages_of_single_artifacts():
    from regrow.evaluate import Scores, TaskScore
    from regrow.importance import LayerImportance
    from regrow.tune.record import TuningRecord

    parts = details()
    importance = LayerImportance(model_digest="a", calibration_digest="b", **parts["importance"])
    assert Page(report.importance_page(importance)).text.count("Angular distance") >= 1
    record = TuningRecord(dataset="sciq", digest="c", log=parts["logs"]["sciq"], summary={"steps": 120})
    page = report.tuning_page(record)
    assert "<svg" in page
    assert "120" in Page(page).text
    scores = Scores(
        name="base",
        digest="a",
        parameters=10**6,
        flops_per_token=2 * 10**6,
        perplexity=math.inf,
        perplexity_tokens=9,
        scores={"piqa": TaskScore(metric="acc,none", value=0.5, stderr=0.1, samples=25)},
        settings={"seed": 7},
        seconds=1.0,
    )
    text = Page(report.scores_page(scores)).text
    for part in ("50.0 ±10.0", "infinite", "seed: 7"):
        assert part in text
    rows = [{**row, "id": str(i)} for i, row in enumerate(parts["rewrites"])]
    tries = {"acceptance_rate": 0.5, "acceptance_by_attempt": [0.25, 0.5]}
    page = report.selfdata_page({"records": 2, "decisions": {"rewritten": 1}, **tries}, rows)
    assert "50.0 % in up to 2 tries, 25.0 % at the first" in Page(page).text.replace("\u00a0", " ")
    assert "make sugar of it" in Page(page).text


def test_a_whole_run_from_what_the_steps_return(tmp_path: Path):
    from regrow.files import canonical_digest, write_json
    from regrow.importance import LayerImportance
    from regrow.prune import PrunePlan
    from regrow.quality import GateResult
    from regrow.selfdata import SelfData, Shift
    from regrow.selfdata.store import COLUMNS, read_parquet, write_parquet
    from regrow.tune.record import TuningRecord

    parts = details()
    importance = LayerImportance(model_digest="a", calibration_digest="b", **parts["importance"])
    plan = PrunePlan(source_digest="a", depth=30, blocks="0:13,19:30", criterion="greedy", score=0.1)
    empty = {name: "" if kind == "string" else 0 for name, kind in COLUMNS.items()}
    write_parquet(
        tmp_path / "records.parquet",
        [{name: parts["rewrites"][0].get(name, value) for name, value in empty.items()}],
    )
    digest = canonical_digest(read_parquet(tmp_path / "records.parquet"))
    facts = {"records": 1, "acceptance_rate": 1.0, "decisions": {"rewritten": 1}, "digest": digest}
    write_json(tmp_path / "summary.json", facts)
    gate = GateResult.model_validate(parts["gates"][1])
    record = TuningRecord(dataset="sciq", digest="c", log=parts["logs"]["sciq"], summary={"steps": 120})
    shift = Shift(
        dataset="sciq",
        data_digest=digest,
        model="a",
        encoder="e",
        rewrite_loss=[1.0, 1.2, 0.8],
        reference_loss=[2.0, 2.2, 0.7],
        similarity=[0.8, 0.7, 0.9],
    )
    text = report.run_page(
        summary(),
        importance,
        plan,
        [SelfData.open(tmp_path)],
        [gate],
        [shift],
        [record],
        parts["merge"],
        {"a": {"b": 1}},
    )
    page = Page(text)
    for part in (
        "13:19",
        "model.layers.13 to model.layers.18",
        "make sugar of it",
        "acceptance rate",
        "97 of them",
        "3 of 515 records were taken out (contamination: 2, secrets: 1)",
        "66.7",  # share of records whose rewrite is likelier
        "perplexity under the unpruned model",
        "b: 1",
    ):
        assert part in page.text
    json.dumps(summary())


def test_a_run_tells_differences_drift_and_cost_from_what_was_measured(run_page):
    from regrow.evaluate.paired import compare

    base, *models = run_models()
    for one in models:
        found = compare(one, base)
        assert run_page.row(one.name)[1].endswith(" M")
        told = run_page.row(one.name, after="model", head="mean score, points")
        assert told[1].replace("\u2212", "-") == f"{100 * found.difference:+.1f}"
        assert told[2].replace("\u2212", "-") == f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
        assert told[5] == found.verdict
    for part in (
        "Differences to the unpruned model",
        "Drift from the unpruned model",
        "Health of the answers",
        "Cost and quality",
        "peak memory",
        "one prompt at a time",
        "As a draft for the unpruned model",
        "regrow run config.yaml",
        "5.23.0",
    ):
        assert part in run_page.text, part
    drift = measures().drifts[0]
    one = drift.estimates()["kl"]
    assert f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" in run_page.text


def test_what_was_not_measured_is_left_out():
    text = Page(report.html(summary(), None, details())).text
    for part in ("Differences to the unpruned model", "Drift", "Cost", "Health", "Versions", "draft"):
        assert part not in text, part
    text = Page(report.html(summary(), None, details(), scores=run_models()[:2])).text
    assert "Differences to the unpruned model" in text
    assert "Health" not in text


def test_the_configuration_on_the_page_is_a_file_that_runs(run_page):
    import html

    import yaml

    shown = html.unescape(re.findall(r"<pre>(.*?)</pre>", run_page.source, re.DOTALL)[-1])
    assert yaml.safe_load(shown) == {"parameters": details()["settings"]}


def test_pages_of_drift_and_cost():
    found = measures()
    page = Page(report.drift_page(found.drifts[0]))
    assert page.faults == []
    assert "mean 0." in page.text
    assert page.row("unpruned")[2] == "10.0 %"
    page = Page(report.measures_page(found))
    for part in ("times as fast", "checkpoint", "break-even cost", "KL, nats"):
        assert part in page.text
    only_speed = Page(report.measures_page(found.model_copy(update={"drifts": (), "drafts": ()})))
    assert "KL" not in only_speed.text
    assert "prefill, ms" in only_speed.text
