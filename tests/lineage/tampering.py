"""Ways to tamper with a folder. Each edits a copy and returns what an audit must name: (what, where) pairs."""

import json
import os
import shutil
import struct
from pathlib import Path

from regrow.files import sha256_of
from regrow.lineage import Statement, attest, describe_value, embed
from regrow.tensors import INDEX, index, read_header
from tests.lineage.models import restate

CASES = {}
SIGNED = {}
DATA = {}


def case(table):
    """Put a function into a table under its name."""

    def add(function):
        table[function.__name__.strip("_")] = function
        return function

    return add


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def flip(file, place, bit=1):
    data = bytearray(file.read_bytes())
    data[place] ^= bit
    file.write_bytes(bytes(data))


def statement_file(folder, stage):
    return sorted((folder / "provenance").glob(f"{stage}-*.json"))[0]


def edit_header(file, change):
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header = change(header) or header
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes, indent=2))


def edit_statement(file, change):
    """Edit a statement's file in place, in canonical form."""
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
    return ("statement changed", f"provenance/{file.name}")


def definition(value):
    return value["predicate"]["buildDefinition"]


# Weights ---------------------------------------------------------------------------------------------------


@case(CASES)
def one_bit_in_one_tensor(folder, chain):
    name, info = next(one for one in index(folder).items() if one[0].endswith("layers.1.mlp.up_proj.weight"))
    flip(info.file, info.start + 100)
    return {("tensor changed", f"{info.file.name}: {name}")}


@case(CASES)
def the_last_bit_of_the_last_tensor(folder, chain):
    file = shards(folder)[-1]
    name = max(read_header(file).items(), key=lambda one: one[1].end)[0]
    flip(file, -1, 128)
    return {("tensor changed", f"{file.name}: {name}")}


@case(CASES)
def two_tensors_of_two_shards(folder, chain):
    expected = set()
    for file in (shards(folder)[0], shards(folder)[-1]):
        name, info = next(iter(read_header(file).items()))
        flip(file, info.start)
        expected.add(("tensor changed", f"{file.name}: {name}"))
    return expected


@case(CASES)
def swapped_shards(folder, chain):
    first, second = shards(folder)[:2]
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    return {("file swapped", first.name), ("file swapped", second.name)}


@case(CASES)
def one_shard_is_a_copy_of_another(folder, chain):
    shutil.copyfile(shards(folder)[0], shards(folder)[1])
    return {("file swapped", shards(folder)[1].name)}


@case(CASES)
def a_shard_is_removed(folder, chain):
    file = shards(folder)[1]
    file.unlink()
    return {("file removed", file.name)}


@case(CASES)
def a_shard_is_cut_short(folder, chain):
    file = shards(folder)[0]
    file.write_bytes(file.read_bytes()[:-7])
    return {("file damaged", file.name)}


@case(CASES)
def a_shard_is_longer(folder, chain):
    file = shards(folder)[0]
    file.write_bytes(file.read_bytes() + b"\0")
    return {("file changed", f"{file.name}: header")}


@case(CASES)
def a_note_in_the_header(folder, chain):
    edit_header(shards(folder)[0], lambda header: header["__metadata__"].update(note="hello"))
    return {("file changed", f"{shards(folder)[0].name}: header")}


@case(CASES)
def a_tensor_gets_another_type(folder, chain):
    def change(header):
        entry = header[next(name for name in header if name != "__metadata__")]
        entry["dtype"], entry["shape"] = "I32", entry["shape"]

    edit_header(shards(folder)[0], change)
    return {("file changed", f"{shards(folder)[0].name}: header")}


@case(CASES)
def a_tensor_is_renamed(folder, chain):
    file = shards(folder)[0]
    name = next(iter(read_header(file)))
    edit_header(file, lambda header: {("other" if key == name else key): one for key, one in header.items()})
    return {("tensor removed", f"{file.name}: {name}"), ("tensor added", f"{file.name}: other")}


@case(CASES)
def two_tensors_change_places(folder, chain):
    file = next(one for one in shards(folder) if _twins(one))
    first, second = _twins(file)

    def change(header):
        header[first], header[second] = header[second], header[first]

    edit_header(file, change)
    return {("tensor changed", f"{file.name}: {first}"), ("tensor changed", f"{file.name}: {second}")}


def _twins(file):
    by_size = {}
    for name, info in read_header(file).items():
        by_size.setdefault(info.nbytes, []).append(name)
    return next((names[:2] for names in by_size.values() if len(names) > 1), None)


@case(CASES)
def the_index_points_elsewhere(folder, chain):
    value = json.loads((folder / INDEX).read_text())
    names = sorted(value["weight_map"])
    value["weight_map"][names[0]], value["weight_map"][names[-1]] = (
        value["weight_map"][names[-1]],
        value["weight_map"][names[0]],
    )
    (folder / INDEX).write_text(json.dumps(value, indent=2))
    return {("file changed", INDEX)}


@case(CASES)
def the_weights_of_a_parent(folder, chain):
    for file in shards(folder):
        shutil.copyfile(chain.tuned[0].folder / file.name, file)
    return {
        ("tensor changed", f"{info.file.name}: {name}")
        for name, info in index(folder).items()
        if not name.endswith("none")
    }


# Small files -----------------------------------------------------------------------------------------------


@case(CASES)
def a_value_of_the_configuration(folder, chain):
    edit_json(folder / "config.json", rope_theta=1.0)
    return {("file changed", "config.json")}


@case(CASES)
def a_space_in_the_configuration(folder, chain):
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    return {("file changed", "config.json")}


@case(CASES)
def the_tokenizer(folder, chain):
    value = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = value["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return {("file changed", "tokenizer.json")}


@case(CASES)
def the_tokenizers_settings(folder, chain):
    edit_json(folder / "tokenizer_config.json", eos_token="<s>")
    return {("file changed", "tokenizer_config.json")}


@case(CASES)
def the_chat_template(folder, chain):
    file = folder / "chat_template.jinja"
    file.write_text("Always agree. " + file.read_text())
    return {("file changed", "chat_template.jinja")}


@case(CASES)
def the_generation_settings(folder, chain):
    edit_json(folder / "generation_config.json", temperature=2.0)
    return {("file changed", "generation_config.json")}


@case(CASES)
def the_model_card(folder, chain):
    (folder / "README.md").write_text("# Harmless\n")
    return {("file changed", "README.md")}


@case(CASES)
def code_is_added(folder, chain):
    (folder / "modeling_llama.py").write_text("import os\n")
    return {("file added", "modeling_llama.py")}


@case(CASES)
def a_hidden_file_is_added(folder, chain):
    (folder / ".hidden").write_text("")
    return {("file added", ".hidden")}


@case(CASES)
def a_file_in_a_new_folder_is_added(folder, chain):
    (folder / "a" / "provenance").mkdir(parents=True)
    (folder / "a" / "provenance" / "b.txt").write_text("x")
    return {("file added", "a/provenance/b.txt")}


@case(CASES)
def a_link_to_a_folder_is_added(folder, chain):
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "code.py").write_text("x")
    (folder / "extra").symlink_to(outside, target_is_directory=True)
    return {("file added", "extra")}


@case(CASES)
def a_file_is_removed(folder, chain):
    (folder / "generation_config.json").unlink()
    return {("file removed", "generation_config.json")}


@case(CASES)
def a_file_is_renamed(folder, chain):
    (folder / "chat_template.jinja").rename(folder / "chat_template.txt")
    return {("file removed", "chat_template.jinja"), ("file added", "chat_template.txt")}


@case(CASES)
def a_file_is_emptied(folder, chain):
    (folder / "tokenizer.json").write_bytes(b"")
    return {("file changed", "tokenizer.json")}


@case(CASES)
def all_files_are_those_of_a_parent(folder, chain):
    for path in list(folder.iterdir()):
        if path.is_file():
            path.unlink()
    for path in chain.pruned.folder.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    name = statement_file(folder, "merge").name
    return {("provenance of another result", f"provenance/{name}")}


# Statements ------------------------------------------------------------------------------------------------


@case(CASES)
def the_recipe_in_the_statement(folder, chain):
    file = statement_file(folder, "merge")
    return {edit_statement(file, lambda value: definition(value)["externalParameters"].update(t=0.9))}


@case(CASES)
def the_plan_in_a_statement_of_the_chain(folder, chain):
    file = statement_file(folder, "prune")
    tune = statement_file(folder, "tune")
    digest = chain.pruned.digest[:12]

    def change(value):
        definition(value)["externalParameters"]["criterion"] = "random"

    return {
        edit_statement(file, change),
        ("link", f"provenance/{tune.name}: checkpoint {digest}"),
    }


@case(CASES)
def the_revision_of_the_base(folder, chain):
    def change(value):
        definition(value)["resolvedDependencies"][0]["digest"]["gitCommit"] = "0" * 40

    return {edit_statement(statement_file(folder, "load_model"), change)}


@case(CASES)
def the_scores(folder, chain):
    def change(value):
        definition(value)["internalParameters"]["scores"]["gsm8k"] = 0.99

    return {edit_statement(statement_file(folder, "evaluate"), change)}


@case(CASES)
def the_verdict_of_the_gate(folder, chain):
    def change(value):
        definition(value)["internalParameters"]["passed"] = False

    return {edit_statement(statement_file(folder, "validate"), change)}


@case(CASES)
def the_commit_of_the_code(folder, chain):
    def change(value):
        value["predicate"]["runDetails"]["builder"]["builderDependencies"][0]["digest"] = {
            "gitCommit": "0" * 40
        }

    return {edit_statement(statement_file(folder, "tune"), change)}


@case(CASES)
def the_time(folder, chain):
    def change(value):
        value["predicate"]["runDetails"]["metadata"]["finishedOn"] = "2020-01-01T00:00:00.000Z"

    return {edit_statement(statement_file(folder, "distill"), change)}


@case(CASES)
def the_digest_of_a_tensor_in_the_statement(folder, chain):
    def change(value):
        tensors = value["subject"][-1]["annotations"].get("tensors") or next(
            one["annotations"]["tensors"]
            for one in value["subject"]
            if "tensors" in one.get("annotations", {})
        )
        tensors[next(iter(tensors))] = "0" * 64

    return {edit_statement(statement_file(folder, "merge"), change)}


@case(CASES)
def a_statement_is_written_out_nicely(folder, chain):
    file = statement_file(folder, "merge")
    file.write_text(json.dumps(json.loads(file.read_text()), indent=2))
    return {("statement changed", f"provenance/{file.name}")}


@case(CASES)
def a_key_stands_twice_in_a_statement(folder, chain):
    file = statement_file(folder, "merge")
    file.write_text(file.read_text()[:-1] + ',"subject":[]}')
    return {("statement changed", f"provenance/{file.name}")}


@case(CASES)
def the_statement_is_cut_short(folder, chain):
    file = statement_file(folder, "merge")
    file.write_bytes(file.read_bytes()[:-9])
    return {("statement changed", f"provenance/{file.name}"), ("no statement", "provenance/")}


@case(CASES)
def a_statement_is_renamed(folder, chain):
    file = statement_file(folder, "tune")
    file.rename(file.with_name(file.name.replace("tune", "fuse")))
    return {("statement changed", f"provenance/{file.name.replace('tune', 'fuse')}")}


@case(CASES)
def the_statement_is_removed(folder, chain):
    file = statement_file(folder, "merge")
    file.unlink()
    file.with_suffix(".sig").unlink(missing_ok=True)
    return {("no statement", "provenance/")}


@case(CASES)
def a_statement_of_the_chain_is_removed(folder, chain):
    file = statement_file(folder, "tune")
    subject = Statement.from_json(file.read_bytes()).subject.sha256
    file.unlink()
    file.with_suffix(".sig").unlink(missing_ok=True)
    merge = statement_file(folder, "merge").name
    return {("statement missing", f"provenance/{merge}: checkpoint {subject[:12]}")}


@case(CASES)
def the_statement_of_the_base_is_removed(folder, chain):
    file = statement_file(folder, "load_model")
    file.unlink()
    file.with_suffix(".sig").unlink(missing_ok=True)
    prune = statement_file(folder, "prune").name
    return {("statement missing", f"provenance/{prune}: checkpoint {chain.base.digest[:12]}")}


@case(CASES)
def all_statements_are_removed(folder, chain):
    shutil.rmtree(folder / "provenance")
    return {("no statement", "provenance/")}


@case(CASES)
def a_statement_of_the_chain_is_forged(folder, chain):
    restate(folder, "prune", lambda value: definition(value)["externalParameters"].update(blocks=2))
    tune = statement_file(folder, "tune").name
    return {("statement missing", f"provenance/{tune}: checkpoint {chain.pruned.digest[:12]}")}


@case(CASES)
def the_data_of_a_tuned_model_is_forged(folder, chain):
    file = statement_file(folder, "tune")
    subject = Statement.from_json(file.read_bytes()).subject.sha256

    def change(value):
        definition(value)["resolvedDependencies"].pop()

    restate(folder, file.stem, change)
    merge = statement_file(folder, "merge").name
    return {("statement missing", f"provenance/{merge}: checkpoint {subject[:12]}")}


@case(CASES)
def two_links_are_exchanged(folder, chain):
    def change(value):
        first, second = definition(value)["resolvedDependencies"]
        first["digest"], second["digest"] = second["digest"], first["digest"]

    restate(folder, "merge", change)
    merge = statement_file(folder, "merge").name
    return {("link", f"provenance/{merge}: checkpoint {one.digest[:12]}") for one in chain.tuned}


@case(CASES)
def a_file_and_its_digest_in_a_forged_statement(folder, chain):
    edit_json(folder / "config.json", rope_theta=1.0)

    def change(value):
        for one in value["subject"]:
            if one["name"] == "config.json":
                one["digest"]["sha256"] = sha256_of(folder / "config.json")

    restate(folder, "merge", change)
    merge = statement_file(folder, "merge").name
    return {("files do not add up", f"provenance/{merge}: files"), ("digest", "the folder")}


@case(CASES)
def the_statements_of_another_model(folder, chain):
    shutil.rmtree(folder / "provenance")
    shutil.copytree(chain.tuned[0].folder / "provenance", folder / "provenance")
    shard = shards(folder)[0]
    name = next(iter(read_header(shard)))
    return {("digest", "the folder"), ("tensor changed", f"{shard.name}: {name}")}


@case(CASES)
def a_statement_of_another_chain_is_added(folder, chain):
    other = attest("evaluate", [describe_value("scores", "12" * 32)], [describe_value("checkpoint", "34" * 32)],
                   parameters={})  # fmt: skip
    (folder / "provenance" / other.file_name).write_text(other.to_json())
    return {("statement of another chain", f"provenance/{other.file_name}")}


@case(CASES)
def a_model_made_from_a_parent_is_added(folder, chain):
    base = Statement.from_json(statement_file(folder, "load_model").read_bytes())
    other = attest("prune", [describe_value("checkpoint", "12" * 32)],
                   [describe_value("checkpoint", chain.base.digest, attestation=base.id)], parameters={})  # fmt: skip
    (folder / "provenance" / other.file_name).write_text(other.to_json())
    return {("provenance of another result", f"provenance/{other.file_name}")}


@case(CASES)
def a_file_among_the_statements(folder, chain):
    (folder / "provenance" / "notes.txt").write_text("x")
    return {("file added", "provenance/notes.txt")}


@case(CASES)
def a_hidden_file_among_the_statements(folder, chain):
    (folder / "provenance" / ".x.json.partial-1").write_text("x")
    return {("file added", "provenance/.x.json.partial-1")}


@case(CASES)
def a_folder_among_the_statements(folder, chain):
    (folder / "provenance" / "prune-0123456789abcdef.json").mkdir()
    return {("file added", "provenance/prune-0123456789abcdef.json")}


@case(CASES)
def a_file_that_claims_to_be_a_statement(folder, chain):
    (folder / "provenance" / "prune-0123456789abcdef.json").write_text("{}")
    return {("statement changed", "provenance/prune-0123456789abcdef.json")}


# Signatures ------------------------------------------------------------------------------------------------


def signature_of(folder, stage):
    return statement_file(folder, stage).with_suffix(".sig")


@case(SIGNED)
def a_signature_is_removed(folder, chain, keys):
    file = signature_of(folder, "merge")
    file.unlink()
    return {("signature", f"provenance/{file.name}")}


@case(SIGNED)
def a_signature_of_the_chain_is_removed(folder, chain, keys):
    file = signature_of(folder, "load_model")
    file.unlink()
    return {("signature", f"provenance/{file.name}")}


@case(SIGNED)
def all_signatures_are_removed(folder, chain, keys):
    files = list((folder / "provenance").glob("*.sig"))
    for file in files:
        file.unlink()
    return {("signature", f"provenance/{file.name}") for file in files}


@case(SIGNED)
def a_signature_of_another_statement(folder, chain, keys):
    file = signature_of(folder, "merge")
    shutil.copyfile(signature_of(folder, "prune"), file)
    return {("signature", f"provenance/{file.name}")}


def edit_bundle(file, change):
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))
    return {("signature", f"provenance/{file.name}")}


@case(SIGNED)
def one_bit_of_a_signature(folder, chain, keys):
    import base64

    def change(value):
        data = bytearray(base64.b64decode(value["dsseEnvelope"]["signatures"][0]["sig"]))
        data[20] ^= 1
        value["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(bytes(data)).decode()

    return edit_bundle(signature_of(folder, "merge"), change)


@case(SIGNED)
def the_payload_of_a_signature(folder, chain, keys):
    import base64

    def change(value):
        payload = json.loads(base64.b64decode(value["dsseEnvelope"]["payload"]))
        payload["subject"][0]["name"] = "other"
        value["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()

    return edit_bundle(signature_of(folder, "merge"), change)


@case(SIGNED)
def a_signature_is_garbage(folder, chain, keys):
    file = signature_of(folder, "tune")
    file.write_text("signed, sealed")
    return {("signature", f"provenance/{file.name}")}


@case(SIGNED)
def the_key_of_somebody_else(folder, chain, keys):
    from regrow.lineage import SigningSettings
    from tests.lineage.keys import make_key

    other, _ = make_key(folder.parent, "other")
    file = statement_file(folder, "merge")
    SigningSettings(key=other).signer().sign(file, file.with_suffix(".sig"))
    return {("signature", f"provenance/{file.stem}.sig")}


@case(SIGNED)
def a_forged_statement_with_all_digests_right(folder, chain, keys):
    name = restate(folder, "merge", lambda value: definition(value)["externalParameters"].update(t=0.9))
    return {("signature", f"provenance/merge-{name[:16]}.sig")}


@case(SIGNED)
def a_forged_statement_signed_by_somebody_else(folder, chain, keys):
    from regrow.lineage import SigningSettings
    from tests.lineage.keys import make_key

    name = restate(folder, "merge", lambda value: definition(value)["externalParameters"].update(t=0.9))
    other, _ = make_key(folder.parent, "other")
    file = statement_file(folder, "merge")
    SigningSettings(key=other).signer().sign(file, file.with_suffix(".sig"))
    return {("signature", f"provenance/merge-{name[:16]}.sig")}


@case(SIGNED)
def a_later_statement_without_signature(folder, chain, keys):
    merge = Statement.from_json(statement_file(folder, "merge").read_bytes())
    promoted = attest("promote", [describe_value("promotion", "12" * 32)],
                      [describe_value("checkpoint", chain.merged.digest, attestation=merge.id)],
                      parameters={"to": "champion"})  # fmt: skip
    assert "REGROW_SIGNING_KEY" not in os.environ
    embed(folder, promoted)
    return {("signature", f"provenance/promote-{promoted.id[:16]}.sig")}


@case(SIGNED)
def only_the_signature_is_left(folder, chain, keys):
    file = statement_file(folder, "merge")
    file.unlink()
    return {("statement missing", f"provenance/{file.name}"), ("no statement", "provenance/")}


# Data sets -------------------------------------------------------------------------------------------------


def _edit_rows(folder: Path, change):
    import pandas as pd

    table = pd.read_parquet(folder / "records.parquet")
    table = change(table)
    table.to_parquet(folder / "records.parquet", index=False)


@case(DATA)
def a_row_of_a_data_set(folder, chain):
    def change(table):
        table.loc[3, "response"] = "It is 7."
        return table

    _edit_rows(folder, change)
    return {("file changed", "records.parquet")}


@case(DATA)
def a_row_less_and_a_summary_that_agrees(folder, chain):
    from regrow.selfdata.store import SelfData, save

    data = SelfData.open(folder)
    kept = folder.parent / "kept"
    shutil.move(folder / "provenance", kept)
    save(data.rows()[:-1], data.summary, folder)
    shutil.move(kept, folder / "provenance")
    return {("file changed", "records.parquet"), ("file changed", "summary.json")}


@case(DATA)
def the_summary_of_a_data_set(folder, chain):
    edit_json(folder / "summary.json", acceptance_rate=1.5)
    return {("file changed", "summary.json")}


@case(DATA)
def the_statement_of_a_data_set(folder, chain):
    file = statement_file(folder, "distill")
    return {edit_statement(file, lambda value: definition(value)["externalParameters"].update(seed=9))}


@case(DATA)
def another_name_for_the_rows(folder, chain):
    restate(folder, "distill", lambda value: value["subject"][0]["digest"].update(sha256="0" * 64))
    return {("digest of the rows", "records.parquet")}


@case(DATA)
def the_model_that_wrote_the_data_set(folder, chain):
    file = statement_file(folder, "load_model")
    file.unlink()
    file.with_suffix(".sig").unlink(missing_ok=True)
    distill = statement_file(folder, "distill").name
    return {("statement missing", f"provenance/{distill}: checkpoint {chain.base.digest[:12]}")}
