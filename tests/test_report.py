import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from regrow import figures, report
from tests.example_run import details, summary

VOID = {"meta", "link", "br", "img", "hr"}


class Page(HTMLParser):
    """Checks nesting and collects text, ids, links and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack, self.ids, self.links, self.words, self.tags = [], [], [], [], []
        self.feed(text)
        assert not self.stack, f"left open: {self.stack}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.stack.append(tag)
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "src", "xlink:href"):
                self.links.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not self.stack or self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


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


def test_the_page_stands_alone(page_text):
    page = Page(page_text)
    assert all(link.startswith(("#", "data:image/png;")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    # The only addresses are the names of the SVG namespaces.
    assert set(re.findall(r"https?://[^\s\"'<>)]+", page_text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "url(http" not in page_text
    assert "@import" not in page_text


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
    assert page_text.count("<svg") == page_text.count('role="img"') == 7


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
    colour = figures.colours(["base", "pruned", "tuned-a", "tuned-b", "merged"])
    assert len(set(colour.values())) == 5
    assert figures.colours(["merged"])["merged"] == colour["merged"]


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
