import json
import re
from pathlib import Path

import pytest
import torch

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.merge import MergeSpec, merge, parent_of
from tests.merge.models import family
from tests.tiny import tiny_checkpoint

TIES = MergeSpec(method="ties", density=0.5)


@pytest.fixture
def pair(tmp_path: Path):
    return tiny_checkpoint(tmp_path / "a", seed=1), tiny_checkpoint(tmp_path / "b", seed=2)


def changed(model: Checkpoint, folder: Path, file: str, text: str) -> Checkpoint:
    """A copy with one file written anew."""
    copy = model.copy_to(folder).folder
    (copy / file).write_text(text)
    return Checkpoint.open(copy)


def config(model: Checkpoint, **changes) -> str:
    return json.dumps(model.config | changes)


def refusal(*models: Checkpoint, spec: MergeSpec | None = None, base: Checkpoint | None = None) -> str:
    """What a merge that is refused says; it leaves nothing behind."""
    out = models[0].folder.parent / "merged"
    with pytest.raises(InputError) as error:
        merge(models, spec or MergeSpec(), out, base=base)
    assert not out.exists() and not list(out.parent.glob(".merged*"))
    return str(error.value)


def test_other_tensors_shapes_and_types(tmp_path: Path, pair):
    a, _ = pair
    deeper = tiny_checkpoint(tmp_path / "deep", num_hidden_layers=7)
    assert re.search(r"deep: cannot .*/a: tensor model\.layers\.6\..* is only in one", refusal(a, deeper))
    wider = tiny_checkpoint(tmp_path / "wide", intermediate_size=96)
    assert re.search(r"shape of model\.layers\.0\.mlp.* is \(32, 96\), not \(32, 64\)", refusal(a, wider))
    half = tiny_checkpoint(tmp_path / "half", dtype=torch.bfloat16)
    assert re.search(r"dtype of .* is BF16, not F32; say what to save with dtype", refusal(a, half))


def test_other_configuration_vocabulary_and_tokenizer(tmp_path: Path, pair):
    a, b = pair
    other = changed(b, tmp_path / "c", "config.json", config(b, rms_norm_eps=0.5))
    assert re.search(r"c: cannot .* config\.json differs in rms_norm_eps", refusal(a, other))
    rope = b.config["rope_parameters"] | {"rope_theta": 1.0}
    other = changed(b, tmp_path / "r", "config.json", config(b, rope_parameters=rope))
    assert re.search(r"config\.json differs in rope_parameters\.rope_theta", refusal(a, other))
    other = changed(b, tmp_path / "v", "config.json", config(b, vocab_size=7))
    assert re.search(r"config\.json differs in vocab_size", refusal(a, other))
    text = (b.folder / "tokenizer.json").read_text() + " "
    assert re.search(
        r"tokenizer\.json differs", refusal(a, changed(b, tmp_path / "d", "tokenizer.json", text))
    )
    template = changed(b, tmp_path / "e", "chat_template.jinja", "{{ messages }}")
    assert re.search(r"chat_template\.jinja differs", refusal(a, template))
    inner = json.loads((b.folder / "tokenizer_config.json").read_text()) | {"chat_template": "x"}
    other = changed(b, tmp_path / "f", "tokenizer_config.json", json.dumps(inner))
    assert re.search(r"the chat template in tokenizer_config\.json differs", refusal(a, other))
    assert re.search(
        r"tokenizer_config\.json differs", refusal(b, a, other)
    )  # the third is looked at as well


def test_who_wrote_the_configuration_does_not_matter(tmp_path: Path, pair):
    a, b = pair
    other = changed(b, tmp_path / "c", "config.json", config(b, transformers_version="4.0"))
    merged = merge([a, other], MergeSpec(), tmp_path / "m")
    assert merged.models == [a.digest, other.digest]


def test_other_pruning_plans(tmp_path: Path, pair):
    a, b = pair
    plan = {"source_digest": "0" * 64, "blocks": "0:4"}
    one = changed(a, tmp_path / "p", "plan.json", json.dumps(plan))
    assert re.search(r"b: cannot .*: plan\.json is only in one of them", refusal(one, b))
    two = changed(b, tmp_path / "q", "plan.json", json.dumps(plan | {"blocks": "1:5"}))
    assert re.search(r"plan\.json differs in blocks", refusal(one, two))
    two = changed(b, tmp_path / "s", "plan.json", json.dumps(plan | {"source_digest": "1" * 64}))
    assert re.search(r"plan\.json differs in source_digest", refusal(one, two))
    same = changed(b, tmp_path / "t", "plan.json", json.dumps(plan))
    merged = merge([one, same], MergeSpec(), tmp_path / "m").checkpoint
    assert json.loads((merged.folder / "plan.json").read_text()) == plan


def card(parent: str) -> str:
    return f"# A fine-tuned language model\n\nParent: sha256:{parent}\nTeacher: sha256:{'e' * 64}\n"


def test_other_parents(tmp_path: Path, pair):
    a, b = pair
    one = changed(a, tmp_path / "p", "README.md", card("a" * 64))
    two = changed(b, tmp_path / "q", "README.md", card("b" * 64))
    assert parent_of(one) == ("a" * 64, "README.md")
    assert parent_of(a) is None
    assert re.search(
        r"q: cannot .*/p: README\.md says Parent: sha256:bbbbbbbbbbbb, not sha256:aaaaaaaaaaaa",
        refusal(one, two),
    )
    merged = merge([one, b], MergeSpec(), tmp_path / "m").checkpoint  # what is not recorded is not refused
    assert parent_of(merged) == ("a" * 64, "merge.json")
    assert re.search(r"README\.md says Parent", refusal(merged, two))


def test_a_base_that_is_not_the_parent(tmp_path: Path):
    parent, (a, b) = family(tmp_path, 2)
    tuned = changed(a, tmp_path / "t", "README.md", card(parent.digest))
    merge([tuned, b], TIES, tmp_path / "m", base=parent)
    stranger = tiny_checkpoint(tmp_path / "stranger", seed=9)
    assert re.search(
        r"t/README\.md: Parent is sha256:\w{12}, but the base .*stranger",
        refusal(tuned, b, spec=TIES, base=stranger),
    )
    deeper = tiny_checkpoint(tmp_path / "deep", num_hidden_layers=7)
    assert re.search(
        r"deep: cannot be the parent of .*: tensor .* is only in one", refusal(a, b, spec=TIES, base=deeper)
    )
    planned = changed(parent, tmp_path / "planned", "plan.json", "{}")
    assert re.search(
        r"planned: cannot be the parent .* plan\.json is only in one", refusal(a, b, spec=TIES, base=planned)
    )


def test_a_base_that_is_missing_or_of_no_use(tmp_path: Path, pair):
    for method in ("task_arithmetic", "ties", "dare_linear", "dare_ties"):
        density = {} if method == "task_arithmetic" else {"density": 0.5}
        assert re.search(
            f"{method} .* needs the models' parent", refusal(*pair, spec=MergeSpec(method=method, **density))
        )
    for method in ("slerp", "linear"):
        assert re.search(
            f"method {method} takes no base", refusal(*pair, spec=MergeSpec(method=method), base=pair[0])
        )


def test_no_models_and_an_existing_folder(tmp_path: Path, pair):
    with pytest.raises(InputError, match="no models"):
        merge([], MergeSpec(), tmp_path / "m")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").touch()
    with pytest.raises(InputError, match="already exists"):
        merge(pair, MergeSpec(), tmp_path / "m")
    assert (tmp_path / "m" / "mine").exists()
