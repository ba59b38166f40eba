"""`python -m infra.kubernetes build|apply OVERLAY`: for machines whose kubectl is too old, and for the test cluster."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from infra.kubernetes.kubectl import OVERLAYS, apply, build, on_this_node
from regrow.errors import InputError, RegrowError


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        objects = build(_folder(options.overlay))
        if options.action == "build":
            sys.stdout.write(yaml.safe_dump_all(objects, sort_keys=False))
            return 0
        if options.node_folder:
            objects = on_this_node(objects, options.node_folder)
        for line in apply(objects, dry=options.dry_run):
            sys.stdout.write(f"{line}\n")
    except RegrowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


def _folder(overlay: str) -> Path:
    for folder in (OVERLAYS / overlay, Path(overlay)):
        if (folder / "kustomization.yaml").is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml")))
    raise InputError(f"{overlay}: neither one of {known} nor a folder with a kustomization.yaml")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.kubernetes",
        description="Build the manifests, or give them to the cluster of KUBECONFIG.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|apply")
    for name, text in {"build": "print the objects as YAML", "apply": "give them to the API server"}.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("overlay", help="gpu, gpu-check, test, or a folder of your own")
        if name == "apply":
            action.add_argument(
                "--dry-run", action="store_true", help="the server checks everything, keeps nothing"
            )
            action.add_argument(
                "--node-folder", type=Path, metavar="DIR",
                help="overlay test: the cache on this machine, which is the node (default: as the overlay says)",
            )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
