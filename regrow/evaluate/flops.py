"""Floating-point operations as torch counts them, beside the formula of `regrow.evaluate.cost`."""

import logging

from regrow.checkpoint import Checkpoint

log = logging.getLogger(__name__)


def counted_flops(checkpoint: Checkpoint, tokens: int) -> float | None:
    """Return what torch counts in a forward pass over so many tokens, per token.

    The pass runs on tensors without content, so it costs neither time nor memory; attention is the plain one, whose
    products torch sees. None where an architecture cannot be run so, for what it computes hangs on the content.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            torch.no_grad(),
            FlopCounterMode(display=False) as counter,
        ):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
            model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        log.warning(
            "%s: torch cannot count its operations (%s)", checkpoint.folder, str(error).split("\n")[0]
        )
        return None
    return float(counter.get_total_flops() / tokens)
