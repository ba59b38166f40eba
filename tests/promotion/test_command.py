"""`regrow promote`, as it is typed."""

import json

import pytest

from regrow.cli import main
from tests.promotion.world import NAME, right

POLICY = """
champion:
  attestation: {required: false}
  non_inferiority: {margin: 0.05, base_margin: 0.1}
  floors: {arc: 0.4}
"""


@pytest.fixture
def regrow(world, tmp_path, monkeypatch, capfd):
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(world.uri)
    (tmp_path / "policy.yaml").write_text(POLICY)

    def run(*arguments):
        capfd.readouterr()
        status = main(["promote", *arguments])
        out, err = capfd.readouterr()
        return status, out, err

    yield run
    mlflow.set_tracking_uri(before)


def test_promotes_by_number_or_alias_and_shows_the_gates(world, regrow):
    version = world.version(1)
    world.client.set_registered_model_alias(NAME, "challenger", version)
    status, out, _ = regrow(NAME, "@challenger", "--to", "champion", "--policy", "policy.yaml")
    assert status == 0
    assert f"{NAME} version 1 promoted to champion, line 1 of the record" in out
    assert "| floor: arc " in out
    assert world.alias("champion") == "1"


def test_refuses_with_status_3_and_a_table_of_the_gates_that_failed(world, regrow):
    world.version(1, tasks={"arc": right(20)})
    status, out, _ = regrow(NAME, "1", "--to", "champion", "--policy", "policy.yaml")
    assert status == 3
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["gate", "floor: arc", "not worse than base"]
    assert "FAILED" in rows[1] and "at least 0.4000" in rows[1]
    assert world.alias("champion") is None


def test_json_has_every_gate(world, regrow):
    world.version(1, tasks={"arc": right(20)})
    status, out, _ = regrow(NAME, "1", "--to", "champion", "--policy", "policy.yaml", "--json")
    outcome = json.loads(out)
    assert status == outcome["exit_status"] == 3
    assert outcome["status"] == "refused" and outcome["passed"] is False
    assert {gate["name"]: gate["passed"] for gate in outcome["decision"]["gates"]}["digest"] is True


def test_forces_with_a_reason_rolls_back_and_shows_the_record(world, regrow):
    world.version(1)
    world.version(2, tasks={"arc": right(20)})
    policy = ("--policy", "policy.yaml")
    assert regrow(NAME, "1", "--to", "champion", *policy)[0] == 0
    assert regrow(NAME, "2", "--to", "champion", *policy, "--force", "--reason", "a test")[0] == 0
    assert world.alias("champion") == "2"
    status, out, _ = regrow(NAME, "--rollback", *policy)
    assert status == 0 and "version 1 rolled back to champion (before: version 2)" in out
    status, out, _ = regrow(NAME, "--record")
    assert status == 0 and out.rstrip().endswith("the record holds")
    assert len([line for line in out.splitlines() if "| done" in line]) == 3 and "a test" in out
    world.client.set_registered_model_alias(NAME, "champion", "2")
    status, out, _ = regrow(NAME, "--record", "--json")
    assert status == 3 and len(json.loads(out)["lines"]) == 3
    assert json.loads(out)["problems"][0]["where"] == f"{NAME}, MLflow alias champion"
    assert regrow(NAME, "--repair")[0] == 0
    assert world.alias("champion") == "1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "VERSION: missing"),
        (("1",), "--to: missing"),
        (("1", "--to", "champion", "--force"), "--force: needs --reason"),
        (("1", "--to", "champion", "--force", "--reason", " "), "--force: needs --reason"),
        (("1", "--to", "champion", "--reason", "x"), "--reason: only with --force"),
        (("--rollback", "--repair"), "choose one"),
        (("1", "--rollback"), "--rollback: takes no VERSION"),
        (("--repair", "--pipeline"), "--pipeline: only for"),
        (("1", "--to", "champion", "--stack", "s"), "--stack: only with"),
        (("1", "--to", "champion", "--policy", "gone.yaml"), "gone.yaml: no such file"),
        (("1", "--to", "champion", "--policy", "bad.yaml"), "champion.margin: unknown key"),
        (("7", "--to", "champion"), f"{NAME} 7: no such version"),
        (("--rollback",), "knows no champion before"),
        (("--repair",), "no promotion record"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(world, regrow, tmp_path, arguments, said):
    (tmp_path / "bad.yaml").write_text("champion: {margin: 0.1}\n")
    status, _, err = regrow(NAME, *arguments)
    assert status == 2 and said in err.splitlines()[-1]


def test_nothing_promoted_is_nothing_wrong(world, regrow):
    assert regrow(NAME, "--record")[1].startswith(f"{NAME}: nothing was ever promoted")
