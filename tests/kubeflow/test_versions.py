"""The environment of Kubeflow's packages beside the one of everything else."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def pinned(path: Path) -> dict[str, str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_both_environments_have_the_same_versions_but_for_protobuf():
    tested, own = pinned(ROOT / "constraints.txt"), pinned(ROOT / "infra/kubeflow/constraints.txt")
    assert own["kfp"].startswith("2.16.")
    differ = {name for name in own.keys() & tested.keys() if own[name] != tested[name]}
    assert differ <= {"protobuf", "googleapis-common-protos"}
    assert own["protobuf"].split(".")[0] == "6"
