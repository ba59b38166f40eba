"""Great Expectations' own page: real, alone, harmless, small."""

import re
from html.parser import HTMLParser

import pytest

from regrow.quality import GateSpec, data_docs, pass_gate
from regrow.quality.suite import SUITES
from tests.quality.rows import rows, saved


class Page(HTMLParser):
    """What a browser would load, run or show."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.attributes = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text.append(data)

    @property
    def shown(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def failed(tmp_path):
    bad = {
        5: {"response": "<script>alert('x')</script> & so on.", "id": "<img src=x>"},
        6: {"id": "<img src=x>"},
    }
    passage = pass_gate(saved(tmp_path, rows(bad)), GateSpec(), "fruit <b>", tmp_path / "out")
    return passage.result, (tmp_path / "out/data_docs.html").read_text()


def test_it_is_the_validation_that_was_run(failed):
    result, html = failed
    shown = Page(html).shown
    validation = result.validation
    assert len(validation["results"]) == len(SUITES["choice"]) - 4, "no tokenizer, no items, too few letters"
    assert f"Evaluated Expectations {validation['statistics']['evaluated_expectations']}" in shown
    assert f"Unsuccessful Expectations {len(result.failed())}" in shown
    for finding in result.expectations:
        assert f"{finding.name} ({finding.severity})" in shown
    assert validation["meta"]["great_expectations_version"] in shown
    assert {one["expectation_config"]["severity"] for one in validation["results"]} == {"critical", "warning"}


def test_nothing_is_fetched_or_run(failed):
    _, html = failed
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name, value)
        assert name not in ("src", "srcset", "action") and (name != "href" or value.startswith("#"))
    assert not re.search(r"https?:|url\(|@import", html)


def test_values_cannot_become_markup(failed):
    _, html = failed
    page = Page(html)
    assert "\u2039img src=x\u203a" in page.shown
    assert "Data Docs: fruit <b>" in page.shown


def test_every_anchor_leads_somewhere(failed):
    page = Page(failed[1])
    places = {value for _, name, value in page.attributes if name == "id"}
    links = {value[1:] for _, name, value in page.attributes if name == "href"}
    assert links
    assert links <= places


def test_it_can_be_drawn_again_from_the_json(failed):
    result, html = failed
    again = type(result).model_validate_json(result.model_dump_json())
    assert data_docs.page(again) == html


def test_it_stays_small_when_every_row_is_bad(tmp_path):
    many = [row | {"id": f"{i:016x}", "response": f"It is sweet: {i}."} for i, row in enumerate(rows() * 200)]
    passage = pass_gate(saved(tmp_path, many), GateSpec(), "fruit", tmp_path / "out")
    assert len((tmp_path / "out/quarantine.jsonl").read_text().splitlines()) == 2400
    assert (tmp_path / "out/data_docs.html").stat().st_size < 150_000
    assert (tmp_path / "out/gate.json").stat().st_size < 150_000
    assert len(passage.result.failed()[0].offending) == 5
