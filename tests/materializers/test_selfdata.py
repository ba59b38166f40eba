"""Sets in the artifact store come back with the statements that they carry."""

from pathlib import Path

import pytest

from materializers.selfdata import SelfDataMaterializer
from regrow.errors import RegrowError
from regrow.lineage import audit_folder, chain
from regrow.quality import GateSpec, pass_gate
from regrow.selfdata import SelfData
from tests.quality.rows import rows, saved


def materializer(store, name: str) -> SelfDataMaterializer:
    uri = f"{store.path}/{name}"
    Path(uri).mkdir()
    return SelfDataMaterializer(uri=uri, artifact_store=store)


def accepted(tmp_path: Path) -> SelfData:
    data = saved(tmp_path, rows())
    return pass_gate(data, GateSpec(), "fruit", tmp_path / "out", tmp_path / "documents").accepted_or_stop()


def test_a_stored_set_keeps_its_statements_and_audits_green(store, tmp_path):
    data = accepted(tmp_path)
    stored = materializer(store, "one")
    stored.save(data)
    back = stored.load(SelfData)
    assert back.digest == data.digest
    assert [one.id for one in chain(back.folder)] == [one.id for one in chain(data.folder)] != []
    result = audit_folder(back.folder)
    assert result.failures == []
    assert result.kind == "dataset"


def test_rows_that_were_changed_in_the_store_are_found_out(store, tmp_path):
    data = accepted(tmp_path)
    stored = materializer(store, "one")
    stored.save(data)
    (Path(stored.uri) / "digest").write_text("0" * 64)
    with pytest.raises(RegrowError, match="stored as 000000000000 but is"):
        stored.load(SelfData)
