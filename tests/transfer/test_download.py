"""Fetching: parts, what is taken up, what is tried again, what is damaged. The store is a folder of this machine."""

import json
import logging
import threading

import pytest
from fsspec.implementations.local import LocalFileSystem

from regrow.errors import InputError, RegrowError
from regrow.transfer import Remote, Wanted, fetch, send
from regrow.transfer.retry import persist
from tests.transfer.files import contents, folder_of, wanted_of

PART = 1000


class Flaky(LocalFileSystem):
    """A store that loses the connection every few calls, and counts what it hands out."""

    cachable = False

    def __init__(self, every: int = 0) -> None:
        super().__init__()
        self.every, self.calls, self.read = every, 0, []
        self.guard = threading.Lock()

    def cat_file(self, path, start=None, end=None, **kwargs):
        with self.guard:
            self.calls += 1
            fail = self.every and self.calls % self.every == 0
        data = super().cat_file(path, start=start, end=end, **kwargs)
        if fail:
            data = data[: len(data) // 2]  # an answer that ends early
        with self.guard:
            self.read.append((start, len(data)))
        return data


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("regrow.transfer.retry._FIRST", 0.01)


def stored(tmp_path):
    folder = folder_of(
        tmp_path / "stored", big=10 * PART + 7, exact=3 * PART, small=5, empty=0, deep__down__file=PART + 1
    )
    return folder, wanted_of(folder)


def test_every_file_arrives_with_its_digest(tmp_path):
    folder, wanted = stored(tmp_path)
    store = Flaky()
    found = fetch(Remote(lambda: store), str(folder), wanted, tmp_path / "copy", part=PART)
    assert found == {name: one.sha256 for name, one in wanted.items()}
    assert contents(tmp_path / "copy") == contents(folder)
    assert sum(size for _, size in store.read) == sum(one.size for one in wanted.values())
    assert not (tmp_path / "copy.journal").exists()


def test_a_connection_that_breaks_costs_no_byte_twice(tmp_path):
    folder, wanted = stored(tmp_path)
    store = Flaky(every=3)
    found = fetch(Remote(lambda: store), str(folder), wanted, tmp_path / "copy", part=PART)
    assert found == {name: one.sha256 for name, one in wanted.items()}
    assert store.calls > 17
    assert sum(size for _, size in store.read) == sum(one.size for one in wanted.values())


def test_only_what_is_missing_or_no_longer_what_arrived_is_fetched_again(tmp_path):
    folder, wanted = stored(tmp_path)
    target = tmp_path / "copy"

    class Dies(Flaky):
        def cat_file(self, path, start=None, end=None, **kwargs):
            if self.calls >= 9:
                raise PermissionError("the keys were taken away")
            return super().cat_file(path, start=start, end=end, **kwargs)

    first = Dies()
    with pytest.raises(RegrowError, match="check the keys of the artifact store"):
        fetch(Remote(lambda: first), str(folder), wanted, target, part=PART)
    journal = target.with_name("copy.journal")
    parts = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert 0 < len(parts) < 17
    name, index, _ = next(one for one in parts if one[0] == "big")
    with (target / name).open("r+b") as file:  # the disk has lost one of them
        file.seek(index * PART)
        file.write(b"\0" * 16)
    with journal.open("a") as file:
        file.write('\n["big", 3')  # and the process died while it wrote a line
    second = Flaky()
    found = fetch(Remote(lambda: second), str(folder), wanted, target, part=PART)
    assert found == {name: one.sha256 for name, one in wanted.items()}
    assert contents(target) == contents(folder)
    whole = [(one, at) for one, entry in wanted.items() for at in range(-(-entry.size // PART))]
    assert len(second.read) == len(whole) - len(parts) + 1


def test_other_files_than_the_journals_are_fetched_whole(tmp_path):
    folder, wanted = stored(tmp_path)
    target = tmp_path / "copy"
    target.mkdir()
    (tmp_path / "copy.journal").write_text("another header\n" + json.dumps(["big", 0, 1]))
    store = Flaky()
    fetch(Remote(lambda: store), str(folder), wanted, target, part=PART)
    assert sum(size for _, size in store.read) == sum(one.size for one in wanted.values())


def test_a_damaged_object_is_named_after_a_second_try(tmp_path, caplog):
    folder, wanted = stored(tmp_path)
    data = bytearray((folder / "exact").read_bytes())
    data[1500] ^= 1
    (folder / "exact").write_bytes(data)
    store = Flaky()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RegrowError, match=r"/exact: the object is damaged: its SHA-256 is"),
    ):
        fetch(Remote(lambda: store), str(folder), wanted, tmp_path / "copy", part=PART)
    assert "exact did not arrive as stored; fetched again" in caplog.text
    # Nothing of it is trusted later on, and the others are not fetched again.
    data[1500] ^= 1
    (folder / "exact").write_bytes(data)
    store = Flaky()
    fetch(Remote(lambda: store), str(folder), wanted, tmp_path / "copy", part=PART)
    assert contents(tmp_path / "copy") == contents(folder)
    assert sum(size for _, size in store.read) == 3 * PART


def test_a_missing_and_a_shortened_object_are_named(tmp_path):
    folder, wanted = stored(tmp_path)
    remote = Remote(Flaky)
    (folder / "big").write_bytes(b"short")
    with pytest.raises(RegrowError, match=r"/big: the object is damaged: it has 5 bytes, stored were 10007"):
        fetch(remote, str(folder), wanted, tmp_path / "copy")
    (folder / "big").unlink()
    with pytest.raises(RegrowError, match=r"/big: is missing in the store"):
        fetch(remote, str(folder), wanted, tmp_path / "copy")


def test_sizes_and_digests_need_not_be_known(tmp_path):
    folder, wanted = stored(tmp_path)
    found = fetch(Remote(Flaky), str(folder), dict.fromkeys(wanted, Wanted()), tmp_path / "copy", part=PART)
    assert found == {name: one.sha256 for name, one in wanted.items()}


def test_a_store_that_stays_silent_fails_after_patience(tmp_path, monkeypatch):
    monkeypatch.setenv("REGROW_TRANSFER_PATIENCE", "0.2")
    calls = []

    def work():
        calls.append(1)
        raise ConnectionError("refused")

    with pytest.raises(RegrowError, match=r"s3://x: nothing came for 0 s \(refused\)"):
        persist(work, "s3://x", threading.Event())
    assert len(calls) > 2
    monkeypatch.setenv("REGROW_TRANSFER_PATIENCE", "soon")
    with pytest.raises(InputError, match="REGROW_TRANSFER_PATIENCE=soon"):
        persist(work, "s3://x", threading.Event())


def test_a_full_disk_is_no_reason_to_try_again():
    calls = []

    def work():
        calls.append(1)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        persist(work, "s3://x", threading.Event())
    assert len(calls) == 1


def test_fresh_credentials_are_taken_up(tmp_path):
    folder, wanted = stored(tmp_path)
    expired, fresh = Flaky(), Flaky()
    expired.cat_file = lambda *_, **__: (_ for _ in ()).throw(ConnectionError("ExpiredToken"))
    asked = []

    def filesystem():
        asked.append(1)
        return expired if len(asked) < 12 else fresh

    fetch(Remote(filesystem), str(folder), wanted, tmp_path / "copy", part=PART)
    assert contents(tmp_path / "copy") == contents(folder)


def test_what_is_sent_can_be_fetched(tmp_path):
    folder, _ = stored(tmp_path)
    remote = Remote(Flaky)
    send(remote, folder, str(tmp_path / "store"))
    assert contents(tmp_path / "store") == contents(folder)


def test_a_name_that_leads_out_of_the_folder_is_refused_and_nothing_is_written(tmp_path):
    folder, files = stored(tmp_path)
    files |= {"../../escaped": Wanted(1)}
    with pytest.raises(RegrowError, match=r"leads out of it \(\.\./\.\./escaped\)"):
        fetch(Remote(LocalFileSystem), str(folder), files, tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists() and not (tmp_path / "escaped").exists()
