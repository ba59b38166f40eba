"""A real vLLM server that tests may kill."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.vllm import serve
from infra.vllm.serve import Server, free_port, vllm_serve
from regrow.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python that has vLLM."""
    return serve.python()


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Iterator[Callable[[Checkpoint], Server]]:
    """A function that starts a server of a model as `smollm2`, on the same port every time."""
    log, port = tmp_path_factory.mktemp("vllm-serve") / "log", free_port()
    with ExitStack() as stack:

        def begin(model: Checkpoint) -> Server:
            # float32, so that what differs from transformers is rounding of the last bits.
            serving = vllm_serve(model.folder, "smollm2", log, port, dtype="float32")
            return stack.enter_context(serving)

        yield begin
