"""One training run on several pods: what they share, the command that each runs, and which of them this one is.

The pods meet over the network and share a folder on a volume. Whoever prepares the run lays models, data and recipe
out in it (`lay_out`); every pod then runs the same `command`, which finds out from its environment which pod it is
(`launch_of`); pod 0 leaves the result (`collect`).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.files import atomic_folder, canonical_digest, link_or_copy, sha256_of
from regrow.tune.job import Launch
from regrow.tune.recipe import Recipe
from regrow.tune.tuned import Tuned

_RESULT = "tuned"
_GIVEN = "given"
_DIGEST = "digest"  # written last: what lies beside it is whole

# Number of pods, number of this one, address and port of pod 0, by who sets them: ZenML's Kubernetes step operator
# (an Indexed Job with `pod_count`; Kubernetes itself numbers its pods), and Kubeflow's trainer, in torchrun's words.
_WRITERS = {
    "ZenML's pod_count": (
        "ZENML_KUBERNETES_POD_COUNT",
        "JOB_COMPLETION_INDEX",
        "ZENML_KUBERNETES_MAIN_ADDRESS",
        "ZENML_KUBERNETES_MAIN_PORT",
    ),
    "torchrun": ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"),
}


def launch_of(environment: Mapping[str, str], **given: object) -> Launch:
    """Return where the processes of a run are, if this is one of several pods that run the same command.

    Args:
        environment: of this process.
        given: other fields of `Launch`.

    Raises:
        InputError: the environment does not say, or names values that cannot be.
    """
    for writer, (count, rank, address, port) in _WRITERS.items():
        if count not in environment:
            continue
        if missing := [name for name in (rank, address, port) if not environment.get(name)]:
            raise InputError(
                f"--nodes auto: {count} is set ({writer}), but not {', '.join(missing)}; where a cluster's Jobs "
                "are not indexed (Kubernetes before 1.21), set it for each pod, or use --nodes and --node-rank"
            )
        try:
            return Launch.model_validate(
                {
                    **given,
                    "nodes": int(environment[count]),
                    "node_rank": int(environment[rank]),
                    "main_address": environment[address],
                    "main_port": int(environment[port]),
                }
            )
        except ValueError:
            told = ", ".join(f"{name}={environment[name]}" for name in (count, rank, port))
            raise InputError(f"--nodes auto: no numbers of pods in {told}") from None
    names = " or ".join(names[0] for names in _WRITERS.values())
    raise InputError(f"--nodes auto: this is not one of several pods ({names} is not set); use --nodes N")


def check(recipe: Recipe, processes: int) -> None:
    """Refuse a recipe that processes in several pods cannot train together.

    Args:
        recipe: how to train.
        processes: in all pods together: one for each GPU, one a pod without.

    Raises:
        InputError: it has two phases, or its batch cannot be shared.
    """
    from regrow.tune.prepare import share_of
    from regrow.tune.recipe import Distill, Sft

    if not isinstance(recipe, Sft | Distill):
        raise InputError(
            f"recipe.method {recipe.method}: its two phases cannot share the pods of one command; set "
            "stages.fine_tune.pods to 1, or choose sft or distill"
        )
    share_of(recipe, processes)


def lay_out(
    folder: Path, checkpoint: Checkpoint, data: Path, recipe: Recipe, teacher: Checkpoint | None = None
) -> str:
    """Write what the pods need into a folder that they share.

    What pods have left there of the same run stays: they go on from it. What they left of another run goes.

    Args:
        folder: on a volume that every pod mounts.
        checkpoint: the model to tune.
        data: folder of the data that passed the gate.
        recipe: how to train.
        teacher: the unpruned model, for methods that distil from it.

    Returns:
        A digest of all of it.

    Raises:
        RegrowError: the disk is full.
    """
    settings = recipe.model_dump(mode="json")
    sources = {"model": checkpoint.folder, "data": data} | ({"teacher": teacher.folder} if teacher else {})
    rows = {file.name: sha256_of(file) for file in data.iterdir() if file.is_file()}
    given = canonical_digest([checkpoint.digest, teacher.digest if teacher else None, settings, rows])
    marker = folder / _GIVEN / _DIGEST
    if marker.exists() and marker.read_text(encoding="utf-8") == given:
        return given
    for left in (_RESULT, "work"):
        shutil.rmtree(folder / left, ignore_errors=True)
    with atomic_folder(folder / _GIVEN, replace=True) as scratch:
        for name, source in sources.items():
            for file in sorted(one for one in source.rglob("*") if one.is_file()):
                link_or_copy(file, scratch / name / file.relative_to(source))
        text = yaml.safe_dump(settings, sort_keys=False)
        (scratch / "recipe.yaml").write_text(text, encoding="utf-8")
        (scratch / _DIGEST).write_text(given, encoding="utf-8")
    return given


def command(folder: str, *, teacher: bool) -> list[str]:
    """Return what every pod runs.

    Args:
        folder: that was laid out, as the pods' shell expands it; may name variables.
        teacher: whether there is one.
    """
    # One unfinished run for all pods: a checkpoint has parts of each of them, and each has to find it whole.
    words = ["regrow tune given/model --data given/data --recipe given/recipe.yaml", "--nodes auto"]
    words += ["--teacher given/teacher"] if teacher else []
    words += [f"--work work --out {_RESULT}"]
    # A result is there if all was done but the pod did not live to say so; nothing was laid out where the result of an
    # earlier run is taken from ZenML's cache.
    rest = f"test -e {_RESULT} || exec {' '.join(words)}"
    return [
        "sh",
        "-ec",
        f'test -d "{folder}/{_GIVEN}" || {{ echo "nothing to do"; exit 0; }}; cd "{folder}"; {rest}',
    ]


def collect(folder: Path, out: Path) -> Tuned:
    """Take what pod 0 has left in the shared folder; it stays there too, so that it can be collected again.

    Args:
        folder: that was laid out.
        out: where the result goes; its weights are linked where both lie on one volume.

    Raises:
        RegrowError: there is no result.
        InputError: its files are not those that were written.
    """
    if not (folder / _RESULT).exists():
        raise RegrowError(
            f"{folder / _RESULT}: pod 0 left no result; the log of the pods says why. If the volume was cleared since "
            "an earlier run, run again with caching off (enable_cache: false)"
        )
    found = Tuned.open(folder / _RESULT)
    with atomic_folder(out, replace=True) as scratch:
        for file in sorted(one for one in found.folder.rglob("*") if one.is_file()):
            link_or_copy(file, scratch / file.relative_to(found.folder))
    return Tuned.open(out)
