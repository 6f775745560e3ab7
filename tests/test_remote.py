"""A store that machines share without sharing a folder: each result is computed by one of them."""

import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from little import HALVES, TINY, TWO, counts, gwsmm, write_items

from gwsmm import remote as module
from gwsmm.lease import Lease
from gwsmm.remote import Remote
from gwsmm.store import LOG, Store, key_of
from gwsmm.types import InputError

PATIENCE = 60  # seconds


class Here:
    """One task after the other, without waiting for torch."""

    def map(self, function: Callable, tasks: Sequence, **_: object) -> list:
        return [function(task) for task in tasks]


@dataclass(frozen=True)
class Slow:
    """A stage that takes its time."""

    stage: ClassVar[str] = "slow"
    version: ClassVar[int] = 1

    seconds: float = 0.0

    def __call__(self, subject: str, folder: Path) -> None:
        time.sleep(self.seconds)
        (folder / "value.txt").write_text(subject)
        (folder / "more.txt").write_text(subject * 1000)


class Flaky:
    """An S3 service that answers `every` n-th request with an error or by hanging up."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self.service = DomainDispatcherApplication(create_backend_app)
        self.every = self.seen = self.failed = 0

    def __call__(self, environ: dict, start: Callable) -> object:
        self.seen += 1
        if not self.every or self.seen % self.every:
            return self.service(environ, start)
        self.failed += 1
        if self.failed % 2:
            environ["werkzeug.socket"].shutdown(2)
        start("500 Internal Server Error", [])
        return [b""]


@pytest.fixture(scope="module")
def service() -> Iterator[Flaky]:
    """On a port of this machine, with the bucket `shared`."""
    pytest.importorskip("s3fs", reason="pip install 'gwsmm[s3]'")
    pytest.importorskip("moto", reason="pip install 'moto[server]'")
    import boto3
    from werkzeug.serving import make_server

    app = Flaky()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "who")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="shared")
        yield app
    server.shutdown()


@pytest.fixture(params=["memory", "file", "local", "path", "s3"])
def address(request, tmp_path) -> str:
    if request.param == "s3":
        request.getfixturevalue("service")
        return f"s3://shared/{tmp_path.name}"
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    return (
        f"{tmp_path}/remote" if request.param == "path" else f"{request.param}://{tmp_path}/remote"
    )


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a process remembers of the remotes that it has seen."""
    yield
    module._given_up.clear()
    module._refuse.cache_clear()


def begun(*folders: Path) -> list[str]:
    """The keys that were computed, in all these stores."""
    logs = [folder / LOG for folder in folders if (folder / LOG).exists()]
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [line["key"] for line in lines if line["event"] == "begun"]


def values(folder: Path, remote: Remote, subjects: str = "abc", stage: Slow = Slow()) -> list[str]:
    made = Store(folder, remote).each(stage, list(subjects), Here())
    return [each.file("value.txt").read_text() for each in made]


def test_what_one_machine_computed_another_downloads(address, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    remote = Remote(address)
    remote.check()
    assert values(one, remote) == values(other, remote) == ["a", "b", "c"]
    assert len(begun(one)) == 3
    assert not begun(other)
    files = {path.relative_to(one): path.read_bytes() for path in one.glob("slow/*/*")}
    assert len(files) == 4 * 3
    assert {path.relative_to(other): path.read_bytes() for path in other.glob("slow/*/*")} == files
    assert not list(other.glob("slow/*.part"))
    fs, root = module._opened(address)
    left = fs.find(root, withdirs=True)
    assert not [name for name in left if ".lock." in name or "/probe" in name]


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^store=\S+ cannot be written \(Not a directory\)"):
        values(tmp_path / "file" / "store", Remote(f"memory://{tmp_path.name}"))


def names(address: str) -> list[str]:
    fs, root = module._opened(address)
    return fs.find(root)


# What a remote may hold


def flip(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def named(name: str) -> Callable[[bytes], bytes]:
    def lie(content: bytes) -> bytes:
        manifest = json.loads(content)
        manifest["sha256"][name] = manifest["sha256"].pop("value.txt")
        return json.dumps(manifest).encode()

    return lie


DAMAGES = {
    "a bit of a file": ("value.txt", flip),
    "the end of a file": ("more.txt", lambda content: content[:-1]),
    "a file": ("value.txt", None),
    "a bit of the manifest": ("manifest.json", flip),
    "the end of the manifest": ("manifest.json", lambda content: content[:-20]),
    "no object": ("manifest.json", lambda content: b"[]"),
    "of another result": ("manifest.json", lambda content: content.replace(b'"slow"', b'"fast"')),
    **{
        f"named {name!r}": ("manifest.json", named(name))
        for name in ("../evil", "/tmp/evil", "..", ".", "a/b", "a\\b", "", "manifest.json", ".x")
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_or_not_inside_is_refused_and_computed_again(damage, tmp_path, caplog):
    name, change = DAMAGES[damage]
    remote = Remote(f"memory://{tmp_path.name}")
    values(tmp_path / "one", remote, "a")
    fs, root = module._opened(remote.address)
    path = f"{root}/slow/{key_of(Slow(), 'a').digest}/{name}"
    content = fs.cat_file(path)
    fs.rm_file(path)
    if change:
        fs.pipe_file(path, change(content))
    before = set(tmp_path.parent.rglob("*evil*"))
    assert values(tmp_path / "other", remote, "a") == ["a"]
    assert len(begun(tmp_path / "other")) == 1
    assert set(tmp_path.parent.rglob("*evil*")) == before
    assert caplog.text.count("refused") == (change is not None)
    assert values(tmp_path / "third", remote, "a") == ["a"]  # what was refused is whole now
    assert not begun(tmp_path / "third")


# Locks


def work(folder: Path, address: str, subjects: str, seconds: float) -> None:
    """In a process of its own."""
    values(folder, Remote(address, lease=2), subjects, Slow(seconds))


def started(folder: Path, address: str, subjects: str, seconds: float) -> multiprocessing.Process:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=work, args=(folder, address, subjects, seconds))
    process.start()
    return process


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_machines_divide_the_work_and_a_lease_is_renewed(service, tmp_path):
    """Each result takes longer than a lease lasts without a beat."""
    address, folders = f"s3://shared/{tmp_path.name}", [tmp_path / "one", tmp_path / "other"]
    two = [started(folder, address, "abcd", 2.5) for folder in folders]
    for process in two:
        process.join(PATIENCE)
    assert [process.exitcode for process in two] == [0, 0]
    assert len(begun(*folders)) == len(set(begun(*folders))) == 4
    assert all(begun(folder) for folder in folders)


def test_the_lock_of_a_killed_owner_is_taken_over_and_of_a_live_one_it_is_not(service, tmp_path):
    address, one, other = f"s3://shared/{tmp_path.name}", tmp_path / "one", tmp_path / "other"
    killed = started(one, address, "a", 3600)
    wait(lambda: bool(begun(one)))
    heir = started(other, address, "a", 3600)
    time.sleep(3)
    assert not begun(other)  # the owner lives
    os.kill(killed.pid, signal.SIGKILL)
    wait(lambda: bool(begun(other)))
    heir.kill()
    for process in (killed, heir):
        process.join(PATIENCE)


def test_of_many_that_want_a_dead_owners_lock_one_gets_it(address):
    fs, root = module._opened(address)
    with Lease(fs, f"{root}/x", 3600) as owner:
        assert owner.take()
        seekers = [Lease(fs, f"{root}/x", 0.05) for _ in range(5)]
        assert not any(seeker.take() for seeker in seekers)
        assert owner.held()
        time.sleep(0.1)
        assert [seeker.take() for seeker in seekers].count(True) == 1
        assert not owner.held()
        for seeker in seekers:
            seeker.__exit__()
    assert not names(address)


def test_an_owner_that_was_taken_for_dead_and_returns_gives_its_lock_to_nobody(address):
    fs, root = module._opened(address)
    dead, heir, third = (Lease(fs, f"{root}/x", seconds) for seconds in (3600, 0.05, 3600))
    with heir:
        with dead:
            assert dead.take()
            assert not heir.take()
            time.sleep(0.1)
            assert heir.take()
        assert heir.held()
        assert not third.take()
    assert not names(address)
    with third:
        assert third.take()


def test_an_owner_that_returns_after_its_heir_is_done_leaves_the_next_one_its_lock(address):
    fs, root = module._opened(address)
    dead, heir, third = (Lease(fs, f"{root}/x", seconds) for seconds in (1, 0.05, 3600))
    with dead:
        assert dead.take()
        dead._ended.set()  # its machine sleeps
        dead._thread.join()
        assert not heir.take()
        time.sleep(0.1)
        with heir:
            assert heir.take()
        with third:
            assert third.take()
            dead._ended.clear()  # and wakes up
            dead._renew()
            assert third.held()
            assert not dead.held()
            dead.__exit__()
            assert third.held()
            assert not Lease(fs, f"{root}/x", 3600).take()
    assert not names(address)


# A remote that fails


def test_errors_and_cut_connections_now_and_then_are_tried_again(service, tmp_path, caplog):
    remote = Remote(f"s3://shared/{tmp_path.name}")
    service.every, service.failed = 4, 0
    try:
        assert values(tmp_path / "one", remote) == values(tmp_path / "other", remote)
    finally:
        service.every = 0
    assert service.failed > 4
    assert len(begun(tmp_path / "one")) == 3
    assert not begun(tmp_path / "other")
    assert not caplog.records


@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
def test_a_remote_that_is_down_stops_no_run_and_is_told_once(
    service, tmp_path, caplog, monkeypatch, when
):
    quick = {"s3": {"config_kwargs": {"retries": {"max_attempts": 0}}}}
    monkeypatch.setattr(module, "_OPTIONS", quick)
    module._opened.cache_clear()

    @dataclass(frozen=True)
    class Breaking(Slow):
        def __call__(self, subject: str, folder: Path) -> None:
            super().__call__(subject, folder)
            service.every = 1

    remote = Remote(f"s3://shared/{tmp_path.name}")
    service.every = int(when == "before")
    try:
        remote.check()
        stage = Breaking() if when == "meanwhile" else Slow()
        assert values(tmp_path / "one", remote, stage=stage) == ["a", "b", "c"]
        service.every = 1
        assert values(tmp_path / "one", remote, stage=stage) == ["a", "b", "c"]
        assert values(tmp_path / "one", remote, "def") == ["d", "e", "f"]
    finally:
        service.every = 0
        module._opened.cache_clear()
    (warning,) = caplog.records
    assert "the run goes on without it" in warning.getMessage()
    assert "secret" not in caplog.text


# What the user gives


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sftp://me:verysecret@host/store", "no user or password"),
        ("nothing://x/y", "Protocol not known"),
        ("gcs://bucket/x", "install gcsfs"),
        ("s3://no-such-bucket/x", "bucket does not exist"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_in_one_line(service, address, said):
    with pytest.raises(InputError, match=said) as error:
        Remote(address).check()
    assert "verysecret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("setting", ["store", "remote"])
def test_an_empty_place_is_refused_in_one_line(setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = gwsmm("run", *TINY, f"{setting}=")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(f"gwsmm: {setting}=: it is empty")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_store_that_writes_over_what_is_there_is_refused(monkeypatch, tmp_path):
    fs, root = module._opened(f"memory://{tmp_path.name}")
    plain = type(fs).open
    monkeypatch.setattr(type(fs), "open", lambda self, path, mode: plain(self, path, "wb"))
    with pytest.raises(InputError, match="nothing can be locked"):
        Remote(f"memory://{tmp_path.name}").check()
    assert not fs.find(root)


def test_a_remote_that_makes_no_folders_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_OPTIONS", {})
    with pytest.raises(InputError, match=r"cannot be a remote store: .*No such file"):
        Remote(f"file://{tmp_path}").check()


def test_a_run_on_another_machine_computes_nothing_again_and_tells_no_secret(service, tmp_path):
    data = write_items(tmp_path / "items", items=3)
    common = [
        *TINY,
        TWO,
        HALVES,
        "items=pasta",
        f"items.path={data}",
        f"remote=s3://shared/{tmp_path.name}",
    ]
    for name in ("one", "other"):
        where = [f"store={tmp_path / name}-store", f"hydra.run.dir={tmp_path / name}"]
        ended = gwsmm("run", *common, *where)
        assert ended.code == 0, ended.err
        assert "verysecret" not in ended.out + ended.err
    one, other = (tmp_path / name for name in ("one", "other"))
    assert (one / "results.json").read_bytes() == (other / "results.json").read_bytes()
    assert {computed for computed, _ in counts(other).values()} == {0}
    assert not begun(tmp_path / "other-store")
    told = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in told if b"verysecret" in path.read_bytes()]
    assert "Not shared" not in ended.out

    module._given_up.add(f"s3://shared/{tmp_path.name}")
    ended = gwsmm("run", *common, f"store={one}-store", f"hydra.run.dir={tmp_path / 'alone'}")
    assert ended.code == 0, ended.err
    *_, last = ended.out.splitlines()
    assert last.startswith(f"Not shared: remote=s3://shared/{tmp_path.name} could not be used; ")
