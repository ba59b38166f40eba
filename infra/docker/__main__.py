"""`python -m infra.docker build|rootfs|sbom`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from infra.docker import registry, rootfs
from infra.docker.builders import BUILDERS, Builder, find_builder
from infra.docker.context import DOCKERFILE, ROOT, Recipe, matching_wheels
from infra.docker.images import IMAGES, Image, chosen
from regrow.errors import InputError, RegrowError
from regrow.files import read_json, write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        builder = find_builder(options.builder)
        {"build": _build, "rootfs": _rootfs, "sbom": _sbom}[options.action](builder, options)
    except RegrowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the next build goes on from the layers that are done\n")
        return 130
    return 0


def _build(builder: Builder, options: argparse.Namespace) -> None:
    images = chosen(options.names)
    if options.push and not options.registry:
        raise InputError("--push needs --registry HOST:PORT")
    if options.registry:
        registry.check_address(options.registry)
    insecure = bool(options.registry) and (options.insecure or registry.is_insecure(options.registry))
    base = options.base
    if base == "rootfs":
        base = rootfs.existing(builder) or rootfs.make(builder)
    if options.ca is not None and not options.ca.is_file():
        raise InputError(f"--ca {options.ca}: no such file")
    for image in images:
        recipe = _recipe(image, base, options)
        reference = f"{options.registry or 'localhost'}/{image.repository}:{recipe.tag}"
        digest = registry.digest_of(reference, insecure=insecure) if options.push else None
        if digest is None:
            _make(builder, recipe, reference, options)
            digest = builder.push(reference, insecure=insecure) if options.push else None
        if digest is not None:
            repository = reference.rpartition(":")[0]
            reference = f"{repository}@{digest}"
            _note(options.out, image, reference)
        sys.stdout.write(f"{image.name} {reference}\n")
        sys.stdout.flush()
        if options.sbom and not _sbom_path(options.out, image, reference).is_file():
            _write_sbom(builder, image, reference, options.out, insecure=insecure)


def _recipe(image: Image, base: str | None, options: argparse.Namespace) -> Recipe:
    recipe = Recipe(image, image.torch(options.torch), base, options.torch_index)
    if options.wheels is None:
        return recipe
    wheels = matching_wheels(options.wheels, recipe.constraints, recipe.torch)
    return Recipe(image, recipe.torch, base, options.torch_index, wheels)


def _make(builder: Builder, recipe: Recipe, reference: str, options: argparse.Namespace) -> None:
    if (
        recipe.torch == "cpu"
        and not recipe.index
        and not any(w.name.startswith("torch-") for w in recipe.wheels)
    ):
        raise InputError(
            f"{recipe.image.name}: there is no build of torch for CPUs on the default index; name a folder that has "
            "its wheel (--wheels) or an index (--torch-index)"
        )
    if recipe.torch == "cpu" and recipe.image.vllm:
        raise InputError(
            f"{recipe.image.name}: this image is for GPUs; vLLM on CPUs has an environment of its own"
        )
    if untracked := recipe.untracked:
        sys.stderr.write(f"not in the image, because git does not track it: {', '.join(untracked)}\n")
    with tempfile.TemporaryDirectory(prefix="regrow-image-") as folder:
        recipe.stage(Path(folder))
        builder.build(
            Path(folder),
            recipe.root / DOCKERFILE,
            [reference],
            arguments=recipe.arguments,
            labels=recipe.labels,
            layout=options.format,
            ca=options.ca,
        )


def _rootfs(builder: Builder, _options: argparse.Namespace) -> None:
    sys.stdout.write(f"{rootfs.make(builder)}\n")


def _sbom(builder: Builder, options: argparse.Namespace) -> None:
    pushed = read_json(options.out) if options.out.is_file() else {}
    for image in chosen([options.name]):
        if image.name not in pushed:
            raise InputError(
                f"{options.out}: names no {image.name}; python -m infra.docker build {image.name} --push"
            )
        reference = pushed[image.name]
        insecure = options.insecure or registry.is_insecure(reference)
        sys.stdout.write(f"{_write_sbom(builder, image, reference, options.out, insecure=insecure)}\n")


def _write_sbom(builder: Builder, image: Image, reference: str, out: Path, *, insecure: bool) -> Path:
    from infra.docker.sbom import bill_of_materials  # the library takes a while

    said = builder.run(reference, ["python", "-m", "infra.docker.inventory"], insecure=insecure)
    path = _sbom_path(out, image, reference)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, bill_of_materials(image.repository, reference, json.loads(said)))
    return path


def _sbom_path(out: Path, image: Image, reference: str) -> Path:
    """Return where the bill of an image lies: beside images.json, named by what it describes."""
    return out.parent / "sbom" / f"{image.repository}-{reference.rpartition(':')[2][:12]}.cdx.json"


def _note(out: Path, image: Image, reference: str) -> None:
    known = read_json(out) if out.is_file() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, known | {image.name: reference})


def _find_links() -> Path | None:
    """Return the folder of wheels that pip knows, if it is one of this machine."""
    said = os.environ.get("PIP_FIND_LINKS", "").split()
    if not said:
        asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    folders = [Path(one.removeprefix("file://")) for one in said]
    return next((one for one in folders if one.is_dir()), None)


def _own_ca() -> Path | None:
    """Return the certificates that this machine checks servers with, where it names them."""
    named = os.environ.get("SSL_CERT_FILE")
    return Path(named) if named and Path(named).is_file() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.docker",
        description="regrow's container images, built with or without a daemon.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--builder", choices=BUILDERS, help="default: the first of these that is there")
    common.add_argument("--insecure", action="store_true", help="the registry speaks plain HTTP")
    common.add_argument(
        "--out",
        type=Path,
        default=ROOT / "runs" / "images.json",
        help="where the digests of pushed images are kept; bills of materials in sbom/ beside it (%(default)s)",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|rootfs|sbom")
    build = actions.add_parser("build", parents=[common], help="build images, and push them")
    build.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(IMAGES)}, all (default)")
    build.add_argument("--registry", metavar="HOST:PORT", help="where they are for")
    build.add_argument("--push", action="store_true", help="push; what the registry has is not built")
    build.add_argument("--torch", choices=("cpu", "cuda"), help="build of torch in images for GPUs (cuda)")
    build.add_argument("--torch-index", metavar="URL", help="index that has the wanted build of torch")
    build.add_argument(
        "--wheels", type=Path, default=_find_links(), help="folder of wheels (pip's find-links)"
    )
    build.add_argument(
        "--ca", type=Path, default=_own_ca(), help="certificates for the build (SSL_CERT_FILE)"
    )
    build.add_argument(
        "--base",
        default=os.environ.get("REGROW_IMAGE_BASE"),
        help="image below: a reference, or `rootfs` for one that mmdebstrap makes here (the Dockerfile's pin)",
    )
    build.add_argument(
        "--format", choices=("oci", "docker"), default="oci", help="of the manifest (%(default)s)"
    )
    build.add_argument("--no-sbom", dest="sbom", action="store_false", help="write no bill of materials")
    actions.add_parser(
        "rootfs", parents=[common], help="make a base image without a registry, from Debian's packages"
    )
    sbom = actions.add_parser("sbom", parents=[common], help="write the bill of materials of a pushed image")
    sbom.add_argument("name", choices=[*IMAGES, "all"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
