"""A tiny GGUF file, written with the gguf package from a tiny Llama checkpoint."""

from pathlib import Path

import gguf
import numpy as np

from regrow import tensors
from regrow.checkpoint import Checkpoint
from tests.tiny import CHAT_TEMPLATE, SPECIAL

# One token that comes of a merge: GGUF cannot hold an empty list of merges.
MERGED = "ab"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(checkpoint: Checkpoint, file: Path) -> Path:
    """Write a Llama made by `tiny_checkpoint(..., vocab_size=262)` in full precision."""
    config = checkpoint.config
    vocabulary = [*sorted(checkpoint.tokenizer().get_vocab().items(), key=lambda item: item[1]), (MERGED, 0)]
    tokens = [token for token, _ in vocabulary]
    assert config["vocab_size"] == len(tokens)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("Tiny Of The Test")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(MERGED)])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_unk_token_id(config["pad_token_id"])
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, info in checkpoint.tensors().items():
        data = tensors.load(info, name).float().numpy()
        writer.add_tensor(*_renamed(name, data, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _renamed(name: str, data: np.ndarray, config: dict) -> tuple[str, np.ndarray]:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight", data
    if name == "model.norm.weight":
        return "output_norm.weight", data
    _, _, block, rest = name.split(".", 3)
    part = NAMES[rest.removesuffix(".weight")]
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(part)
    if heads:
        # GGUF interleaves the two halves that rotary embeddings rotate.
        halves = data.reshape(heads, 2, data.shape[0] // heads // 2, -1)
        data = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(data.shape))
    return f"blk.{block}.{part}.weight", data
