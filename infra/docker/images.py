"""Which images there are, and in what they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from regrow.errors import InputError

Torch = Literal["cpu", "cuda"]

# Triton, which torch.compile and vLLM use, compiles a small C module for each new kernel.
_COMPILER = ("gcc", "libc6-dev", "python3.11-dev")
_PIPELINE = ("pipeline", "s3", "kubernetes")


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        name: what commands call it; its repository is `regrow-NAME`.
        title: what it is for, in one line.
        gpu: whether its torch is the build for CUDA, unless the builder asks for CPUs.
        extras: of pyproject.toml, what every step's pod needs of them.
        beside: extras that this image alone has, in a layer of their own.
        debian: Debian packages that this image alone has.
        vllm: whether vLLM is in it.
    """

    name: str
    title: str
    gpu: bool = True
    extras: tuple[str, ...] = _PIPELINE
    beside: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    vllm: bool = False

    @property
    def repository(self) -> str:
        """Name of the repository in a registry."""
        return f"regrow-{self.name}"

    def torch(self, asked: Torch | None) -> Torch:
        """Return the build of torch that goes in when the command line asks for `asked`."""
        return (asked or "cuda") if self.gpu else "cpu"


IMAGES = {
    one.name: one
    for one in (
        Image("base", "every stage on CPUs, and the MLflow and ZenML servers", gpu=False),
        Image("evaluate", "evaluation, importance, pruning and merging on GPUs"),
        Image("tune", "tuning on GPUs", beside=("qlora",), debian=_COMPILER),
        Image(
            "generate",
            "self-data from vLLM on GPUs",
            extras=("s3", "kubernetes"),
            debian=_COMPILER,
            vllm=True,
        ),
    )
}


def chosen(names: Sequence[str]) -> list[Image]:
    """Return the images that a command line names; none or `all` means all of them.

    Raises:
        InputError: there is no image of that name.
    """
    if not names or "all" in names:
        return list(IMAGES.values())
    if unknown := [name for name in names if name not in IMAGES]:
        raise InputError(f"{', '.join(unknown)}: no such image; there are {', '.join(IMAGES)} and all")
    return [IMAGES[name] for name in dict.fromkeys(names)]
