"""`regrow plan` on the configurations that come with the project."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from regrow.capacity.requests import Request, of_step, quantity
from regrow.cli import main
from regrow.errors import InputError

ROOT = Path(__file__).parents[2]
GIB = 2**30


@pytest.fixture(autouse=True)
def _nothing_is_started(monkeypatch, tmp_path):
    """Whoever opens a ZenML client or a socket to a server fails the test."""
    import socket

    def refused(*_args, **_kwargs):
        raise AssertionError("a plan without a stack reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path / "zenml"))
    yield
    assert not (tmp_path / "zenml").exists()


def plan(capfd, *arguments: str, status: int = 0):
    assert main(["plan", *arguments]) == status
    out, err = capfd.readouterr()
    return out if status == 0 else err


@pytest.mark.parametrize(
    ("name", "steps", "parameters"),
    [("demo", 23, 134_515_008), ("llama-3.1-8b", 18, 8_030_261_248), ("study-smollm2", 146, 134_515_008)],
)
def test_the_bundled_configurations_are_planned(capfd, name: str, steps: int, parameters: int):
    found = json.loads(plan(capfd, str(ROOT / f"configs/{name}.yaml"), "--json", "--gpu-hour", "3"))
    assert found["parameters"] == parameters
    assert found["totals"]["steps"] == len(found["steps"]) == steps
    assert found["warnings"] == []
    totals = found["totals"]
    assert totals["device_hours"] == pytest.approx(
        sum(one["device_hours"] for one in found["steps"]), abs=0.05
    )
    assert totals["cost"] == pytest.approx(3 * totals["device_hours"], abs=0.02)
    assert totals["longest_way_seconds"] <= totals["seconds_on"]["64"] <= totals["seconds_on"]["1"]
    assert totals["moved_bytes_cached"] < totals["moved_bytes"]
    for one in found["steps"]:
        assert one["seconds"] > 0 and one["host_bytes"]
        assert set(one["after"]) <= {other["name"] for other in found["steps"]}
    by_stage = {one["stage"]: one for one in found["steps"]}
    assert by_stage["fine_tune"]["device_bytes"]["optimizer"] > 0
    assert by_stage["evaluate"]["device_bytes"]["weights"] > 1.5 * parameters


def test_the_table_names_every_step_the_totals_and_what_does_not_fit(capfd, tmp_path):
    whole = yaml.safe_load((ROOT / "configs/llama-3.1-8b.yaml").read_text())
    asked = {
        "limits": {"nvidia.com/gpu": "1", "memory": "8Gi"},
        "requests": {"nvidia.com/gpu": "1", "memory": "8Gi", "ephemeral-storage": "10Gi"},
    }
    settings = {"step_operator.kubernetes": {"pod_settings": {"resources": asked}}}
    whole["steps"] = {"fine_tune_alpaca": {"step_operator": "gpu", "settings": settings}}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(whole))
    text = plan(capfd, str(path))
    for name in ("load_model", "generate_self_data_alpaca", "evaluate_tuned-alpaca", "register"):
        assert name in text
    assert "longest chain" in text and "on N GPUs" in text and "cost " not in text
    assert "of host memory, asks for 8.0 GiB" in text and "of disk, asks for 10.0 GiB" in text
    text = plan(capfd, str(ROOT / "configs/llama-3.1-8b.yaml"), "--model", "Llama-3.1-70B", "--gpu-hour", "1")
    assert "cannot run so" in text and "Llama-3.1-70B, 70.55B parameters" in text
    fits_not = text.partition("does not fit:\n")[2].partition("\n\n")[0]
    assert "the proof does not fit on one device: after training it needs" in fits_not


def asking(whole: dict, step: str, gpus: int) -> dict:
    """A configuration whose step asks for so many GPUs."""
    limits = {"nvidia.com/gpu": str(gpus)}
    settings = {"step_operator.kubernetes": {"pod_settings": {"resources": {"limits": limits}}}}
    return whole | {"steps": {step: {"settings": settings}}}


def test_gpus_that_a_step_needs_together_are_compared_with_those_it_has(capfd, tmp_path):
    whole = yaml.safe_load((ROOT / "configs/llama-3.1-8b.yaml").read_text())
    whole["parameters"]["self_data"] = {"engine": "vllm", "vllm": {"tensor_parallel_size": 2}}
    name = "generate_self_data_alpaca"
    path, found = tmp_path / "vllm.yaml", {}
    for gpus in (1, 2, 4):
        path.write_text(yaml.safe_dump(asking(whole, name, gpus)))
        steps = json.loads(plan(capfd, str(path), "--json"))["steps"]
        found[gpus] = next(one for one in steps if one["name"] == name)
    assert found[1]["warnings"] == [
        "computes on 2 GPUs together (self_data.vllm.tensor_parallel_size), has 1"
    ]
    assert found[2]["warnings"] == found[4]["warnings"] == []
    computing = {gpus: one["seconds"] - one["seconds_moving"] - 60 for gpus, one in found.items()}
    # Time and GPU hours are of the same GPUs: a second one makes it faster, idle ones do not, and are paid for.
    assert computing[1] == pytest.approx(2 * computing[2], rel=0.02)
    assert found[4]["seconds"] == found[2]["seconds"]
    for gpus, one in found.items():
        assert one["device_hours"] == pytest.approx(gpus * one["seconds"] / 3600, abs=1e-3)


def test_memory_of_gpus_that_a_stage_cannot_use_is_not_counted(capfd, tmp_path):
    whole = yaml.safe_load((ROOT / "configs/llama-3.1-8b.yaml").read_text())
    path = tmp_path / "large.yaml"
    path.write_text(yaml.safe_dump(asking(whole, "evaluate_base", 4)))
    steps = json.loads(plan(capfd, str(path), "--json", "--model", "Llama-3.1-70B"))["steps"]
    (said,) = next(one["warnings"] for one in steps if one["name"] == "evaluate_base")
    assert "on 2 GPUs of 80.0 GiB, has 4; the stage computes on one device" in said


def test_a_step_that_its_processes_cannot_share_is_said_in_the_words_of_tuning(capfd, tmp_path):
    whole = yaml.safe_load((ROOT / "configs/llama-3.1-8b.yaml").read_text())
    whole["parameters"]["tune"]["batch_size"] = 8
    path = tmp_path / "three.yaml"
    path.write_text(yaml.safe_dump(asking(whole, "fine_tune_alpaca", 3)))
    warnings = json.loads(plan(capfd, str(path), "--json"))["warnings"]
    assert warnings == [
        "fine_tune_alpaca: recipe.batch_size 8: cannot be shared by 3 processes; make it a multiple"
    ]


def test_generation_has_the_image_of_its_engine(capfd, monkeypatch, tmp_path):
    from infra.stacks.schema import load
    from regrow.commands import plan as command

    monkeypatch.setattr(command, "_registered", lambda stack: (load("kubernetes"), []))
    whole = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    whole["parameters"]["datasets"][0]["self_data"] = {"engine": "vllm"}
    path = tmp_path / "two-engines.yaml"
    path.write_text(yaml.safe_dump(whole))
    found = json.loads(plan(capfd, str(path), "--stack", "kubernetes", "--json"))
    images = [one["image"] for one in found["steps"] if one["stage"] == "generate_self_data"]
    assert images == ["generate", "tune"]


def test_a_stack_file_says_what_is_asked_for(capfd, monkeypatch):
    from infra.stacks.values import combine, sized
    from regrow.commands import plan as command

    values = combine([("values", {"stages": {"fine_tune": {"pods": 2, "resources": {"gpus": 4}}}})])
    monkeypatch.setattr(
        command, "_registered", lambda stack: (sized(stack, values), ["kubernetes: no server"])
    )
    found = json.loads(plan(capfd, str(ROOT / "configs/demo.yaml"), "--stack", "kubernetes", "--json"))
    by_name = {one["name"]: one for one in found["steps"]}
    assert by_name["fine_tune_arc"]["image"] == "tune"
    assert by_name["fine_tune_arc"]["step_operator"] == "gpu"
    assert by_name["fine_tune_arc"]["requested"]["gpus"] == 8  # the site's: two pods
    assert by_name["evaluate_base"]["requested"]["gpus"] == 1
    assert by_name["prune"]["requested"]["memory_bytes"] == 16 * GIB
    assert found["lacks"] == ["kubernetes: no server"] and found["stack"] == "kubernetes"
    assert "the stack kubernetes lacks:" in plan(
        capfd, str(ROOT / "configs/demo.yaml"), "--stack", "kubernetes"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.yaml",), "no such file"),
        (("configs/demo.yaml", "--device", "tpu"), "--device tpu"),
        (("configs/demo.yaml", "--assume", "recrods=3"), "--assume recrods=3"),
        (("configs/demo.yaml", "--assume", "records=0"), "--assume records"),
        (("configs/demo.yaml", "--gpu-hour", "-1"), "not negative"),
        (("configs/demo.yaml", "--model", "llama-9"), "--model llama-9"),
        (("configs/demo.yaml", "--stack", "nonesuch"), "no such stack file"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(capfd, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    said = plan(capfd, *arguments, status=2)
    assert message in said and len(said.strip().splitlines()) == 1


def test_a_device_file_and_assumptions_change_what_is_estimated(capfd, tmp_path):
    path = tmp_path / "slow.yaml"
    path.write_text("{name: slow, memory: 85899345920, flops: 1.0e+12, bandwidth: 1.0e+11}")
    config = str(ROOT / "configs/llama-3.1-8b.yaml")
    fast = json.loads(plan(capfd, config, "--json"))
    slow = json.loads(plan(capfd, config, "--json", "--device", str(path)))
    long = json.loads(plan(capfd, config, "--json", "--assume", "response=800", "--assume", "reference=800"))
    hours = [one["totals"]["device_hours"] for one in (fast, slow, long)]
    assert hours[1] > 10 * hours[0] and hours[2] > 1.5 * hours[0]
    path.write_text("{name: slow, memory: 1, flops: 1, bandwidth: 1, watts: 3}")
    assert "watts: unknown key" in plan(capfd, config, "--device", str(path), status=2)


def test_this_machine_is_a_device(capfd, tmp_path):
    found = json.loads(plan(capfd, str(ROOT / "configs/demo.yaml"), "--json", "--device", "cpu"))
    assert found["device"]["kind"] == "cpu" and found["device"]["flops"] > 1e9
    assert found["warnings"] == []
    # Where the demo was measured at 7 minutes; what is probed above depends on who else works here.
    two_cores = {"flops": 4.0e11, "bandwidth": 2.0e10, "memory": 24 * GIB}
    path = tmp_path / "cpu.yaml"
    path.write_text(yaml.safe_dump(found["device"] | two_cores))
    known = json.loads(plan(capfd, str(ROOT / "configs/demo.yaml"), "--json", "--device", str(path)))
    assert 3 * 60 < known["totals"]["device_hours"] * 3600 < 20 * 60


def test_quantities_are_read_as_kubernetes_writes_them():
    assert quantity("64Gi", "x") == 64 * GIB and quantity("500M", "x") == 500 * 10**6
    assert quantity(2, "x") == 2 and quantity("1500m", "x") == 2 and quantity("1.5Ki", "x") == 1536
    for text in ("64GB", "Gi", "-1", ""):
        with pytest.raises(InputError, match="quantity"):
            quantity(text, "x")


def test_a_run_configuration_wins_over_the_stack():
    below = Request(image="tune", operator="gpu", gpus=1, memory=96 * GIB, disk=10 * GIB)
    assert of_step(None, below, "x") == below
    resources = {"requests": {"memory": "8Gi"}, "limits": {"nvidia.com/gpu": "4", "memory": "16Gi"}}
    step = {
        "step_operator": "big",
        "settings": {"step_operator.kubernetes": {"pod_settings": {"resources": resources}}},
    }
    found = of_step(step, below, "x")
    assert found == Request(image="tune", operator="big", gpus=4, memory=16 * GIB, disk=10 * GIB)
    assert of_step(step, replace(below, pods=2), "x").gpus == 8  # each pod asks for as many
