"""`python -m infra.kubeflow compile CONFIG --stack NAME --out FILE`, and `local FILE` on this machine's Docker."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from regrow.errors import InputError, RegrowError


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int({"compile": _compile, "local": _local}[options.action](options))
    except RegrowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except ModuleNotFoundError as error:
        if error.name not in ("kfp", "kfp_server_api"):
            raise
        sys.stderr.write(
            f"{error.name} is missing: Kubeflow's packages need an environment of their own "
            "(make .venv-kubeflow/.ready), run this with its Python\n"
        )
        return InputError.exit_status


def _compile(options: argparse.Namespace) -> int:
    from infra.kubeflow.compile import compile_pipeline

    out = compile_pipeline(options.config, options.out, stack=options.stack)
    sys.stdout.write(f"{out}\n")
    return 0


def _local(options: argparse.Namespace) -> int:
    from infra.kubeflow.local import run

    missing = [name for name in options.env if name not in os.environ]
    if missing:
        raise InputError(f"--env {missing[0]}: not set in this shell")
    mounts = []
    for one in options.mount:
        source, _, target = one.partition(":")
        if not target.startswith("/"):
            raise InputError(f"--mount {one}: FOLDER:/PATH is meant")
        mounts.append((Path(source), target))
    name = run(
        options.pipeline,
        secrets={name: os.environ[name] for name in options.env},
        mounts=mounts,
        network=options.network,
        folder=options.folder,
    )
    sys.stdout.write(f"{name}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.kubeflow", description="The pipeline on Kubeflow Pipelines."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="compile|local")
    text = "write the pipeline as Kubeflow's YAML, with its GPU requests; no Kubeflow server is asked"
    one = actions.add_parser("compile", help=text, description=text)
    one.add_argument("config", type=Path, help="run configuration")
    one.add_argument("--out", type=Path, default=Path("pipeline.yaml"), help="default: %(default)s")
    one.add_argument(
        "--stack",
        default="kubeflow",
        help="a registered ZenML stack: `regrow stack up kubeflow` (%(default)s)",
    )
    text = "run a compiled pipeline in containers of this machine's Docker, by Kubeflow's own local runner"
    two = actions.add_parser("local", help=text, description=text)
    two.add_argument("pipeline", type=Path, help="what `compile` wrote")
    two.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="hand this variable of the shell to the steps",
    )
    two.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="FOLDER:/PATH",
        help="show the steps a folder of this machine, in the place of a cluster's volume",
    )
    two.add_argument("--network", default="host", help="Docker's network (%(default)s)")
    two.add_argument(
        "--folder", type=Path, default=Path("runs/kubeflow"), help="the runner's files (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
