import json
import os
import subprocess
import sys

import pytest

from regrow.cli import main
from tests.lineage.models import copy_of
from tests.lineage.tampering import CASES


def _run(capfd, *arguments):
    status = main(["audit", *map(str, arguments)])
    out, err = capfd.readouterr()
    return status, out, err


def test_a_verified_model(signed, keys, capfd):
    status, out, _ = _run(capfd, signed.merged.folder, "--key", keys[1])
    assert status == 0
    assert "verified" in out.splitlines()[0]
    assert f"checkpoint {signed.merged.digest}, signature valid" in out
    stages = ("merge", "tune", "prune", "distill", "importance", "load_model", "evaluate", "validate")
    for stage in stages:
        assert f"{stage} -> " in out
    assert "source hub:org/base@7e27bd9f" in out
    assert "criterion angular_distance" in out and "learning_rate 0.0001" in out
    # What both tuned models rest on is shown once.
    assert out.count("load_model -> ") == 4
    assert out.count("hub:org/base") == 3  # its specification, its material, and among what is left open
    assert out.count("(as above)") == 4


def test_a_tampered_model_ends_with_3_and_names_the_tensor(unsigned, capfd, tmp_path):
    folder = copy_of(unsigned.merged.folder, tmp_path / "model")
    ((_, where),) = CASES["one_bit_in_one_tensor"](folder, unsigned)
    status, out, _ = _run(capfd, folder)
    assert status == 3
    assert "NOT VERIFIED" in out.splitlines()[0]
    assert f"tensor changed: {where}" in out
    assert "DOES NOT VERIFY" in out


def test_json_has_what_is_promised(unsigned, capfd, tmp_path):
    status, out, _ = _run(capfd, unsigned.merged.folder, "--json")
    value = json.loads(out)
    assert (status, value["verified"], value["failures"], value["exit_status"]) == (0, True, [], 0)
    assert set(value["chain"][0]) >= {"stage", "subject", "materials", "checks"}
    assert value["chain"][0]["subject"] == value["digest"] == unsigned.merged.digest
    assert "text" not in value

    folder = copy_of(unsigned.merged.folder, tmp_path / "model")
    CASES["the_chat_template"](folder, unsigned)
    status, out, _ = _run(capfd, folder, "--json")
    value = json.loads(out)
    assert (status, value["verified"]) == (3, False)
    failure = next(one for one in value["failures"] if one["what"] == "file changed")
    assert failure["where"] == "chat_template.jinja"
    assert len(failure["expected"]) == len(failure["found"]) == 64


def test_the_key_can_stand_in_the_environment(signed, unsigned, keys, capfd, monkeypatch):
    monkeypatch.setenv("REGROW_VERIFY_KEY", str(keys[1]))
    assert _run(capfd, signed.merged.folder)[0] == 0
    status, out, _ = _run(capfd, unsigned.merged.folder)
    assert status == 3
    assert "no signature" in out


def test_an_unsigned_model_says_what_that_leaves_open(unsigned, capfd):
    status, out, _ = _run(capfd, unsigned.merged.folder)
    assert status == 0
    assert "unsigned" in out.splitlines()[1]
    assert "nothing here proves who made them" in out


def test_the_report_is_one_file_without_network(unsigned, capfd, tmp_path):
    folder = copy_of(unsigned.merged.folder, tmp_path / "<model> & more")
    CASES["the_scores"](folder, unsigned)
    status, _, _ = _run(capfd, folder, "--out", tmp_path / "report")
    assert status == 3
    value = json.loads((tmp_path / "report" / "audit.json").read_text())
    assert value["verified"] is False and len(value["chain"]) == 11
    html = (tmp_path / "report" / "audit.html").read_text()
    assert html.count('<g class="node ') == 11 + 2  # statements and sources
    assert html.count('class="node broken') == 1
    assert "not hold: statement changed, provenance/evaluate-" in html
    assert "&lt;model&gt; &amp; more" in html and "<model>" not in html
    for remote in ("http://", "https://", "src=", "@import", "<script"):
        assert remote not in html.replace("http://www.w3.org/2000/svg", "").replace("https://slsa.dev", "")
    for link in value["chain"]:
        assert f'id="{link["statement"][:16]}"' in html


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{}/none", "no such folder"),
        ("file:///none/such", "no such folder"),
        ("file://elsewhere/x", "another machine"),
        ("{}/config.json", "is a file"),
        ("gopher://x/y", "unknown kind of target"),
    ],
)
def test_a_target_that_cannot_be_audited_is_bad_usage(target, message, unsigned, capfd):
    status, _, err = _run(capfd, target.format(unsigned.merged.folder))
    assert status == 2
    assert message in err and err.count("\n") == 1


def test_bad_keys_and_places_are_bad_usage(unsigned, keys, capfd, tmp_path):
    folder = unsigned.merged.folder
    for arguments, message in [
        (["--key", tmp_path / "none.pub"], "no such file"),
        (["--key", keys[1], "--roots", keys[1]], "not with both"),
        (["--out", folder / "report"], "lies in what is audited"),
    ]:
        status, _, err = _run(capfd, folder, *arguments)
        assert status == 2
        assert message in err
    assert not (folder / "report").exists()


def test_it_needs_neither_torch_nor_the_signing_library(unsigned, tmp_path):
    code = (
        "import sys; from regrow.cli import main; status = main(['audit', sys.argv[1]]);"
        "print({'torch', 'transformers', 'model_signing', 'mlflow', 'zenml'} & set(sys.modules), status)"
    )
    command = [sys.executable, "-c", code, str(unsigned.merged.folder)]
    # An MLflow that another test has named would be asked.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set() 0", done.stderr
