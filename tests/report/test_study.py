import html
import re

import yaml

from regrow import report
from tests import example_run as example
from tests.report.page import Page


def test_the_page_stands_alone(study_page):
    assert study_page.faults == []


def test_the_tables_hold_the_numbers_of_the_result(study, study_page):
    for row in study.rows:
        cells = study_page.row(row.arm, after=f"{row.blocks} blocks removed, ", head="recovery, %")
        sd = "" if row.recovery.sd is None else f" ± {100 * row.recovery.sd:.1f}"
        assert cells[1] == ("3" if row.seeds else "")
        assert cells[2] == f"{100 * row.recovery.mean:.1f}{sd}"
        assert cells[3] == f"{100 * row.interval.low:.1f} to {100 * row.interval.high:.1f}"
        for name, cell in zip(row.tasks, cells[5:8], strict=True):
            assert cell.startswith(f"{100 * row.tasks[name].mean:.1f}")
    assert study.pairs
    for pair in study.pairs:
        cells = study_page.row(pair.ours, after=f"{pair.blocks} blocks removed", head="verdict")
        assert cells[1].replace("\u2212", "-") == f"{100 * pair.comparison.difference:+.2f}"
        assert cells[4] == ("< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}")
        assert cells[6] == pair.verdict


def test_drift_is_the_mean_over_seeds_with_an_interval(study, study_page):
    from statistics import fmean

    drifts = [one.drift for one in study.outcomes if (one.cell.blocks, one.cell.arm) == (6, "SFT")]
    similarity = fmean(value for one in drifts for value in one.similarity)
    weights = drifts[0].tokens
    kl = fmean(sum(k * w for k, w in zip(one.kl, weights, strict=True)) / sum(weights) for one in drifts)
    rows = [
        row for row in study_page.rows if row[0].strip() == "SFT" and row[1].startswith(f"{similarity:.3f} (")
    ]
    assert len(rows) == 1
    assert rows[0][3].startswith(f"{kl:.3f} (")


def test_every_arm_is_in_every_legend(study, study_page):
    plots = re.findall(r'<svg role="img" aria-label="([^"]*)".*?</svg>', study_page.source, re.DOTALL)
    bodies = re.findall(r'<svg role="img".*?</svg>', study_page.source, re.DOTALL)
    assert len(plots) == len(bodies) == 6
    tuned = {row.arm for row in study.rows if row.seeds}
    for body in bodies:
        words = re.findall(r"<text[^>]*>([^<]*)</text>", body)
        untuned = {"no tuning"} if "Difference" not in body and "optimizer step" not in body else set()
        reference = {study.reference} if "Difference" in body else set()
        assert (tuned - reference) | untuned <= set(words), words


def test_what_repeats_it(study, study_page):
    shown = html.unescape(re.findall(r"<pre>(.*?)</pre>", study_page.source, re.DOTALL)[-1])
    assert yaml.safe_load(shown) == {"parameters": study.config}
    assert "regrow study config.yaml" in study_page.text
    for one in study.outcomes:
        assert one.scores.digest in study_page.text
    for part in (*example.VERSIONS.values(), study.base.digest, "float32"):
        assert part in study_page.text


def test_text_is_escaped():
    arms = {"SFT": (0.4, 0.5), "<b>x</b> & y": (0.2, 0.7)}
    page = report.study_page(example.study(arms, blocks=(6,), seeds=(0, 1), tasks={"piqa": 60}))
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt; &amp; y" in page
    assert Page(page).faults == []


def test_what_was_not_measured_is_left_out():
    arms = {"no tuning": (None, 1.0), "SFT": (0.4, 0.5)}
    result = example.study(arms, blocks=(4,), seeds=(0,), measured=False, tasks={"piqa": 60})
    bare = result.model_copy(
        update={"outcomes": tuple(one.model_copy(update={"tunings": ()}) for one in result.outcomes)}
    )
    for one in (result, bare):
        page = Page(report.study_page(one))
        for part in ("Drift", "Differences from", "Health", "Better than", "Size of the training set"):
            assert part not in page.text, part
    assert "Training loss" not in page.text
    assert "optimizer step" not in page.text
    assert "recovers most" in page.text


def test_sizes_of_the_training_set_are_told_apart():
    arms = {"no tuning": (None, 1.0), "SFT": (0.2, 0.5), "self-data SFT": (0.9, 0.3)}
    result = example.study(
        arms, blocks=(6, 9), records=(100, 1600), seeds=(0, 1), measured=False, tasks={"piqa": 80}
    )
    page = Page(report.study_page(result))
    assert "Size of the training set" in page.text
    assert "records trained on" in page.text
    assert "6 blocks removed, 1,600 records" in page.text
    for row in result.rows:
        if row.seeds:
            found = [
                cells for cells in page.rows if cells[0].strip() == row.arm and cells[1] == f"{row.records:,}"
            ]
            assert len(found) == 2


def test_print_has_rules_of_its_own(study_page, run_page):
    for page in (study_page, run_page):
        assert "@media print" in page.source
        assert "break-inside: avoid" in page.source
        # A closed part must not be missing on paper.
        assert "details::details-content" in page.source
