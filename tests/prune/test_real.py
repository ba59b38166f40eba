"""Real weights: what the tiny models show holds for a Llama and a Gemma that speak."""

import pytest
import torch

from regrow.evaluate import perplexity
from regrow.importance import ImportanceSpec, compute
from regrow.prune import PruneSpec, apply, make_plan
from tests.families import cut_live, generates_alike, logits, mask_live
from tests.real_models import gemma3, smollm2

pytestmark = pytest.mark.real

TEXTS = [
    "Grass grows from its base, not from its tip, which is why it survives being grazed or mown. When the upper part "
    "of a leaf is lost, cells near the ground go on dividing and push a new blade upwards.",
    "The river rises in the hills to the north and runs through two lakes before it reaches the sea. In spring, when "
    "the snow melts, it carries so much water that the old bridge has to be closed for several days.",
    "Photosynthesis takes place in the green parts of plants. Light, water and carbon dioxide are turned into sugar "
    "and oxygen, and the sugar feeds the roots, which in turn bring water up from the soil.",
]
# What each model keeps, beside blocks: units of every kind that it has more than one of.
MODELS = {
    "smollm2": (smollm2, "13:19", {"neurons": 1280, "groups": 2, "channels": 540}),
    "gemma3": (gemma3, "8:11", {"neurons": 1792, "channels": 600}),
}


@pytest.fixture(scope="module", params=MODELS)
def real(request, tmp_path_factory):
    make, drop, units = MODELS[request.param]
    base = make(tmp_path_factory.mktemp("real") / "base")
    return base, drop, units, compute(base, TEXTS, ImportanceSpec(max_tokens=64))


def read(checkpoint) -> float:
    return perplexity(checkpoint.load(), checkpoint.tokenizer(), TEXTS, window=128).value


def test_depth(real, tmp_path):
    base, drop, _, importance = real
    plan = make_plan(base, PruneSpec(drop=drop))
    pruned = apply(base, plan, tmp_path / "pruned")
    ids = base.tokenizer()(TEXTS[0], return_tensors="pt").input_ids
    model = pruned.load(dtype="float32")
    assert torch.equal(logits(model, ids), logits(cut_live(base, plan), ids))
    assert generates_alike(model, ids)
    before, after = read(base), read(pruned)
    assert before < 40
    assert before < after < 10 * before, "damaged, not ruined"
    # Any measurement of a trained model finds its middle and late blocks more alike than its first ones.
    assert importance.best(3)[0] > 1
    kinds = base.config.get("layer_types")
    if kinds:
        assert pruned.config["layer_types"] == [kinds[block] for block in plan.blocks]


def test_width(real, tmp_path):
    base, _, units, importance = real
    plan = make_plan(base, PruneSpec(**units), importance)
    pruned = apply(base, plan, tmp_path / "pruned")
    ids = base.tokenizer()(TEXTS[1], return_tensors="pt").input_ids[:, :24]
    masked, real_logits = logits(mask_live(base, plan), ids), logits(pruned.load(dtype="float64"), ids)
    # Norms are rescaled in bfloat16, to 2^-9 of their value; a unit too many or few changes logits by units.
    assert (masked - real_logits).abs().mean() < 0.02 * masked.std()
    assert generates_alike(pruned.load(dtype="float32"), ids)
    before, after = read(base), read(pruned)
    assert before < after < 20 * before, "damaged, not ruined"
