"""What a head is on real architectures: its logits of the last hidden states are the model's own."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from regrow.errors import InputError
from regrow.tune.losses import head_of, nll
from tests.families import DEPTH_ONLY, FAMILIES, IDS

# What each does to its logits, away from its neutral or default value.
TRANSFORMED = {
    "gemma2": {"final_logit_softcapping": 0.5},
    "gemma3_text": {"final_logit_softcapping": 0.5},
    "gemma4_text": {"final_logit_softcapping": 0.5, "head_dim": 8, "hidden_size_per_layer_input": 8},
    "vaultgemma": {"final_logit_softcapping": 0.5, "head_dim": 8},
    "recurrent_gemma": {"logits_soft_cap": 0.5},
    "nanochat": {"final_logit_softcapping": 0.5},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 2.5},
    "granitemoe": {"logits_scaling": 2.5, "num_local_experts": 4},
    "granitemoeshared": {"logits_scaling": 2.5, "num_local_experts": 4, "shared_intermediate_size": 16},
    "hyperclovax": {"logits_scaling": 2.5},
    "falcon_h1": {"lm_head_multiplier": 0.4, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "phi": {},  # has a bias
}
COMMON = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def make(family, **config):
    base = (FAMILIES | DEPTH_ONLY).get(family, {})
    drop = {"max_window_layers", "mlp_only_layers", "first_k_dense_replace"} & set(base)
    settings = COMMON | {key: value for key, value in base.items() if key not in drop} | config
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).float().eval()
    for parameter in model.parameters():  # biases, too, are zero at first
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def check(model):
    """The model's logits, and those of its head on the backbone's last hidden states and on what the head is given."""
    given = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: given.append(args[0]))
    with torch.no_grad():
        logits = model(IDS, use_cache=False).logits
        last = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
    hook.remove()
    head = head_of(model)
    assert logits.std() > 0.02
    torch.testing.assert_close(head.logits(given[0]), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.logits(last), logits, rtol=1e-4, atol=1e-5)
    return head


@pytest.mark.parametrize("family", [*FAMILIES, *DEPTH_ONLY])
def test_logits_are_the_models_own(family):
    check(make(family))


@pytest.mark.parametrize("family", TRANSFORMED)
def test_what_follows_the_output_layer_is_reproduced(family):
    head = check(make(family, **TRANSFORMED[family]))
    assert (head.scale, head.softcap, head.bias is None) != (1.0, None, True)


def test_a_wrapped_language_model_is_read_through_its_text_config():
    text = COMMON | {"head_dim": 8, "final_logit_softcapping": None}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    check(model)
    model.config.text_config.final_logit_softcapping = 30.0  # which this class never applies
    with pytest.raises(InputError, match=r"config\.json: final_logit_softcapping = 30\.0: .*'gemma3'"):
        head_of(model)


def test_the_tensors_are_the_models_parameters():
    model = make("llama", tie_word_embeddings=True)
    head = head_of(model)
    assert head.weight is model.get_input_embeddings().weight
    labels = IDS[:, 1:].reshape(-1)
    hidden = model.model(input_ids=IDS).last_hidden_state[:, :-1].reshape(-1, 32)
    (nll(hidden, head, labels) / len(labels)).backward()
    found = head.weight.grad.clone()
    model.zero_grad()
    model(IDS, labels=IDS).loss.backward()
    torch.testing.assert_close(found, head.weight.grad, rtol=1e-4, atol=1e-6)


def test_an_adapter_around_the_model_is_looked_through_and_one_on_the_head_refused():
    from peft import LoraConfig, get_peft_model

    model = make("llama")
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert head_of(wrapped).weight is model.lm_head.weight
    on_head = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(InputError, match=r"the output head is a peft\..*Linear, no plain linear layer"):
        head_of(on_head)


@pytest.mark.parametrize(
    "family, config, named",
    [
        ("llama", {"logit_scale": 2.0}, "logit_scale = 2.0"),
        ("mpt", {"logit_scale": 2.0, "d_model": 32, "n_heads": 4, "n_layers": 1}, "logit_scale = 2.0"),
        ("bert", {"is_decoder": True}, "module cls"),
        ("modernbert-decoder", {}, "module lm_head"),
    ],
)
def test_logits_that_are_not_known_are_refused(family, config, named):
    with pytest.raises(InputError, match=named):
        head_of(make(family, **config))
