"""One of several processes that share a model's weights (FSDP 2 on CPUs), against the whole model; run by torchrun.

accelerate shards on GPUs alone. This wraps the parts as it does: each block, the embeddings, and the final norm with
the head, which stays gathered between its forward and its backward pass.
"""

import sys

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from regrow.checkpoint import Checkpoint
from regrow.tune.losses import head_of
from regrow.tune.objective import FromTeacher, NextToken, Step
from regrow.tune.states import Probe


def main(student: str, teacher: str) -> None:
    """Compare loss and gradients of both objectives."""
    torch.set_num_threads(1)
    init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    ids = torch.randint(5, 200, (2, 24), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :9] = -100
    for name in ("next token", "teacher"):
        parent = Checkpoint.open(student)
        whole, parts = (parent.load(dtype="float32", device="cpu").train() for _ in range(2))
        shard(parts, mesh)
        losses = []
        for model in (whole, parts):
            other = Checkpoint.open(teacher)
            objective = (
                NextToken()
                if name == "next token"
                else FromTeacher(
                    other.load(dtype="float32", device="cpu"), other.blocks, temperature=1.0, hidden_states=True,
                    embeddings=True,
                )
            )  # fmt: skip
            probe = Probe(model, parent.blocks, block=name == "teacher", embedded=name == "teacher")
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            model(**inputs, use_cache=False)
            total = objective(Step(inputs, probe.taken(), head_of(model), labels, torch.arange(2)))
            total.backward()
            losses.append(total.detach())
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
        for (key, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
            assert b.grad is not None, key
            torch.testing.assert_close(
                b.grad.full_tensor(), a.grad, rtol=1e-4, atol=1e-5, msg=f"{name}: {key}"
            )
            assert b.to_local().numel() < a.numel(), key
    destroy_process_group()


def shard(model: torch.nn.Module, mesh: object) -> None:
    """Spread the weights over the processes."""
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tail = [model.model.norm, head]
    if embeddings.weight is head.weight:
        tail.insert(1, embeddings)
    else:
        fully_shard(embeddings, mesh=mesh)
    fully_shard(tail, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh)


if __name__ == "__main__":
    main(*sys.argv[1:])
