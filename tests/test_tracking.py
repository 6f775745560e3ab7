"""Weights & Biases: what it is given is what the run found, and nothing there harms a run."""

import io
import json
import logging
import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from little import (
    CONF,
    NAMES,
    TINY,
    TWO,
    WORDS,
    Ended,
    answers,
    gwsmm,
    read_json,
    write_items,
    write_table,
)
from wandb.proto import wandb_internal_pb2 as proto

from gwsmm.artefact import MANIFEST
from gwsmm.bundle.writing import write_bundle
from gwsmm.cli.run import build
from gwsmm.pipeline import prepare, run
from gwsmm.results import pairs_frame
from gwsmm.tracked import Finished, told
from gwsmm.tracking import Wandb

SECRETS = [word.encode() for word in (*WORDS, "melting", "floating")]  # of the responses
OFFLINE = Wandb(mode="offline", project="gwsmm", entity=None, bundle=False, timeout=60)


@dataclass(frozen=True)
class World:
    """One folder of items, and one store for all the runs of this file."""

    root: Path

    @property
    def where(self) -> list[str]:
        data = ["items=pasta", f"items.path={self.root / 'data'}"]
        return [*TINY, TWO, *data, f"store={self.root / 'store'}"]

    def run(self, folder: Path, *overrides: str) -> Ended:
        names = {each.partition("=")[0] for each in overrides}
        where = [each for each in self.where if each.partition("=")[0] not in names]
        return gwsmm("run", *where, f"hydra.run.dir={folder}", *overrides)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    write_items(made.root / "data")
    return made


@pytest.fixture(scope="module")
def multirun(world: World) -> Path:
    """Two merges compared, tracked offline with their bundles."""
    folder = world.root / "several"
    tracker = ["tracker=offline", "tracker.bundle=true"]
    sweep = [f"hydra.sweep.dir={folder}", "merge=average,ties", "-m"]
    ended = gwsmm("run", *world.where, *tracker, *sweep)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="module")
def found(world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that has ended and was not tracked."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        experiment = build(compose("config", overrides=world.where))
    items, folder = prepare(experiment), tmp_path_factory.mktemp("found")
    outcome = run(experiment, items)
    tables = {"pairs": pairs_frame(outcome.distances)}
    given = {"encoder": experiment.encoder, "private": experiment.private, "device": "cpu"}
    bundle = partial(write_bundle, run=outcome, **given)
    results, members = outcome.results, outcome.members
    return Finished("found", None, folder, {}, results, tables, items, members, bundle)


@pytest.fixture
def finished(found: Finished, tmp_path: Path) -> Finished:
    """The same with a folder of its own."""
    return replace(found, folder=tmp_path)


# What is recorded


def payloads(path: Path) -> Iterator[bytes]:
    """The records of a W&B run file: LevelDB's log format after a header of seven bytes."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, whole, block = 7, b"", 32768
    while at + 7 <= len(content):
        left = block - at % block
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        if kind == length == 0:
            at += left
            continue
        data = content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind == 1:
            yield data
        elif kind == 2:
            whole = data
        elif kind == 3:
            whole += data
        else:
            yield whole + data


@dataclass(frozen=True)
class Tracked:
    """What a W&B run file says."""

    about: proto.RunRecord
    config: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    artifacts: list[proto.ArtifactRecord] = field(default_factory=list)

    def artifact(self, name: str) -> dict[str, Path]:
        """The files of an artifact, by their names in it."""
        record = next(each for each in self.artifacts if each.name == name)
        return {each.path: Path(each.local_path) for each in record.manifest.contents}


def run_files(folder: Path) -> list[Path]:
    return list(folder.glob("wandb/offline-run-*/run-*.wandb"))


def tracked(folder: Path) -> Tracked:
    """The one run file in a folder, read back."""
    (path,) = run_files(folder)
    records = [proto.Record.FromString(each) for each in payloads(path)]
    made = Tracked(next(each.run for each in records if each.HasField("run")))
    for record in records:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            made.config.update(_pairs(record.run.config.update))
        elif kind == "history":
            made.history.append(_pairs(record.history.item))
        elif kind == "summary":
            made.summary.update(_pairs(record.summary.update))
        elif kind == "artifact":
            made.artifacts.append(record.artifact)
    return made


def _pairs(items: Iterator) -> dict:
    return {".".join(each.nested_key) or each.key: json.loads(each.value_json) for each in items}


def expected_summary(folder: Path) -> dict:
    """`results.json`, its items by their names."""
    results = read_json(folder / "results.json")
    return results | {"items": {item.pop("name"): item for item in results["items"]}}


def jobs(multirun: Path) -> list[Path]:
    return [multirun / "0", multirun / "1"]


def test_a_job_is_one_run_of_its_multirun_with_its_settings(multirun):
    for job, merge in zip(jobs(multirun), ("Average", "Ties"), strict=True):
        found = tracked(job)
        assert (found.about.project, found.about.run_group) == ("gwsmm", multirun.name)
        assert found.about.display_name == f"{multirun.name}_{job.name}"
        assert found.config["grouping"]["encoders"] == 2
        assert found.config["merge"]["_target_"].endswith(merge)


def test_the_summary_is_results_json(multirun):
    for job in jobs(multirun):
        said = tracked(job).summary
        own = {key: value for key, value in said.items() if not re.match("_|tables/|figures/", key)}
        assert own == expected_summary(job)
        assert set(own["items"]) == set(NAMES)


def test_curves_are_those_of_every_member(world, multirun):
    for job in jobs(multirun):
        found = tracked(job)
        rows = [row for row in found.history if "training/epoch" in row]
        assert [row["training/epoch"] for row in rows] == [1, 2]
        for member in read_json(found.artifact("members")["members.json"]):
            stored = world.root / "store" / "finetune" / member["digest"] / "training.json"
            curve = read_json(stored)["epochs"]
            for loss in ("train_loss", "validation_loss"):
                sent = [row[f"training/{member['item']}/{loss}"] for row in rows]
                assert sent == [epoch[loss] for epoch in curve]
            best = curve[member["best_epoch"] - 1]
            assert best["validation_loss"] == member["validation_loss"]


def test_tables_and_pictures_are_those_of_the_run(multirun):
    for job in jobs(multirun):
        found = tracked(job)
        (shown,) = (row for row in found.history if "tables/items._type" in row)
        (place,) = (path.parent / "files" for path in run_files(job))

        written = {path.stem: path for path in [*job.glob("tables/*.csv"), job / "pairs.csv"]}
        assert {f"tables/{name}._type" for name in written} == {
            key for key in shown if re.fullmatch("tables/.*_type", key)
        }
        for name, path in written.items():
            sent = pd.DataFrame(**read_json(place / shown[f"tables/{name}.path"]))
            sent = pd.read_csv(io.StringIO(sent.to_csv(index=False)))
            pd.testing.assert_frame_equal(sent, pd.read_csv(path), check_dtype=False, rtol=1e-14)
        for name in ("heatmap", "items"):
            sent = place / shown[f"figures/{name}.path"]
            assert sent.read_bytes() == (job / f"{name}.png").read_bytes()


def test_items_go_in_members_go_out_and_in_and_the_bundle_goes_out(multirun):
    for job in jobs(multirun):
        own = [each for each in tracked(job).artifacts if each.type != "run_table"]
        flow = [(each.name, "in" if each.use_after_commit else "out") for each in own]
        assert flow == [("items", "in"), ("members", "out"), ("members", "in"), ("bundle", "out")]
        assert own[1].client_id == own[2].client_id  # the same version
    first, second = (
        {each.name: each.digest for each in tracked(job).artifacts} for job in jobs(multirun)
    )
    assert first["items"] == second["items"]
    assert first["members"] == second["members"]  # both merges are of the same models
    assert first["bundle"] != second["bundle"]


def test_the_artifact_of_items_tells_them_apart_and_the_bundle_is_whole(multirun):
    for job in jobs(multirun):
        found, results = tracked(job), expected_summary(job)
        for item in read_json(found.artifact("items")["items.json"]):
            digest = item.pop("digest")
            assert re.fullmatch("[0-9a-f]{64}", digest)
            result = {"name": item["name"], **results["items"][item["name"]]}
            assert item == {key: result[key] for key in item}
        files = found.artifact("bundle")
        assert files == {
            path.relative_to(job / "bundle").as_posix(): path
            for path in (job / "bundle").rglob("*")
            if path.is_file()
        }
        assert "manifest.json" in files


def test_no_response_is_told_or_written(world, multirun, found):
    assert any(word in (world.root / "data" / "apples_train.csv").read_bytes() for word in SECRETS)
    content = json.dumps(told(found)).encode()
    assert not [word for word in SECRETS if word in content]
    for job in jobs(multirun):
        (path,) = run_files(job)
        written = list(payloads(path))
        for place in ("wandb", "bundle"):
            written += [each.read_bytes() for each in (job / place).rglob("*") if each.is_file()]
        assert len(written) > 50
        for content in written:
            assert not [word for word in SECRETS[: len(WORDS)] if word in content]


def test_subgroups_stay_on_the_machine(world, tmp_path):
    rows = [
        [name, text, *ratings, ("northvale", "southvale")[at % 2]]
        for item, name in enumerate(NAMES[:2])
        for at, (text, *ratings) in enumerate(answers(item, "train", 60))
    ]
    write_table(tmp_path / "all.csv", ["item", "text", "E1", "E2", "school"], rows)
    columns = ["items.item=item", "items.text=text", "items.labels=[E1,E2]", "items.group=school"]
    given = ["items=table", f"items.path={tmp_path / 'all.csv'}", *columns, "grouping.encoders=1"]
    folder = tmp_path / "run"
    ended = world.run(folder, *given, "tracker=offline", "tracker.bundle=true")
    assert ended.code == 0, ended.err
    assert "northvale" in (folder / "tables" / "subgroups.csv").read_text()
    (path,) = run_files(folder)
    written = list(payloads(path))
    for place in ("wandb", "bundle"):
        written += [each.read_bytes() for each in (folder / place).rglob("*") if each.is_file()]
    assert not [each for each in written if b"northvale" in each or b"southvale" in each]


@pytest.mark.parametrize("choice", sorted(path.stem for path in CONF.glob("tracker/*.yaml")))
def test_only_a_tracker_that_is_asked_for_leaves_anything(
    world, multirun, choice, tmp_path, monkeypatch
):
    for name in ("API_KEY", "BASE_URL", "IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    folder = tmp_path / "run"
    assert world.run(folder, f"tracker={choice}").code == 0
    assert (folder / "wandb").exists() == (choice != "off")
    assert not (folder / "bundle").exists()
    if choice != "off":
        found = tracked(folder)
        assert found.about.run_group == ""
        assert found.about.display_name == folder.name
        assert {each.name for each in found.artifacts} >= {"items", "members"}
        assert "bundle" not in {each.name for each in found.artifacts}


def test_online_without_a_key_is_said_at_the_start_and_recorded(
    world, multirun, silent, tmp_path, monkeypatch
):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    folder = tmp_path / "run"
    ended = world.run(folder, "tracker=online")
    assert ended.code == 0, ended.err
    said = (folder / "run.log").read_text().splitlines()
    warned = [line for line in said if "there is no Weights & Biases key" in line]
    first, last = warned
    assert said.index(first) < next(at for at, line in enumerate(said) if "begun" in line)
    assert "WANDB_API_KEY" in first
    assert "`wandb sync RUN/wandb/offline-run-*` sends it later" in first
    (path,) = run_files(folder)
    assert f"`wandb sync {path.parent}` sends it" in last
    assert tracked(folder).summary.items() >= expected_summary(folder).items()
    assert not silent  # nobody was asked


@pytest.mark.parametrize("host", ["api.wandb.ai", "wandb.school.example:8080"])
def test_a_key_may_stand_in_netrc(host, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", f"https://{host}")
    online = replace(OFFLINE, mode="online")
    online.check()
    with monkeypatch.context() as other:
        other.setenv("NETRC", "~nobody_of_this_name/netrc")
        online.check()
    assert len(caplog.records) == 2
    name = host.partition(":")[0]
    (tmp_path / "netrc").write_text(f"machine {name}\n  login user\n  password {'0' * 40}\n")
    online.check()
    assert len(caplog.records) == 2


# What is sent


@dataclass(frozen=True)
class Service:
    """What the requests of `wandb sync` say to a service that agrees to everything."""

    address: str
    asked: list[tuple[str, dict]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def variables(self, operation: str) -> list[dict]:
        return [each for name, each in self.asked if name == operation]

    def answer(self, operation: str, given: dict) -> dict:
        """As the service's GraphQL schema has it."""
        self.asked.append((operation, given))
        file = {"uploadUrl": f"{self.address}/file", "uploadHeaders": []}
        if operation == "UpsertBucket":
            project = {"id": "P", "name": "gwsmm", "entity": {"id": "E", "name": "us"}}
            bucket = {"id": "R", "name": given["name"], "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "CreateArtifact":
            name = given["input"]["artifactCollectionName"]
            done = {"artifactID": name} in self.variables("CommitArtifact")
            state = "COMMITTED" if done else "PENDING"
            made = {"id": name, "state": state, "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": made}}
        if operation == "CreateArtifactManifest":
            made = {"id": "M", "file": {"id": "F", **file}}
            return {"createArtifactManifest": {"artifactManifest": made}}
        if operation == "CreateArtifactFiles":
            nodes = [
                {"artifact": {"id": each["artifactID"]}, "storagePath": "", **file}
                for each in given["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": [{"node": each} for each in nodes]}}}
        if operation == "CreateRunFiles":
            places = [
                {"name": each, "uploadUrl": f"{self.address}/run/{each}"} for each in given["files"]
            ]
            return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": places}}
        artifact = {"id": "A", "digest": "D"}
        return {"commitArtifact": {"artifact": artifact}, "useArtifact": {"artifact": artifact}}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service on this machine, and a key for it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"] or 0))
            said = {}
            if self.path == "/graphql":
                query = json.loads(content)
                operation = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])[1]
                said = {"data": made.answer(operation, query.get("variables") or {})}
            self.reply(json.dumps(said).encode())

        def do_PUT(self) -> None:
            made.files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(b"{}")

        def reply(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Service(f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_BASE_URL", made.address)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


def test_online_sends_what_offline_writes(world, multirun, tmp_path, service, monkeypatch):
    folder, here = tmp_path / "run", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    ended = world.run(folder, "tracker=online", "tracker.bundle=true")
    assert ended.code == 0, ended.err
    assert "not sent" not in (folder / "run.log").read_text()
    assert list(folder.glob("wandb/*/*.synced"))
    assert service.variables("UpsertBucket")[0]["displayName"] == folder.name
    sent = json.loads(service.files["/run/wandb-summary.json"])
    assert sent.items() >= expected_summary(folder).items()

    made = [each["input"] for each in service.variables("CreateArtifact")]
    outputs = {each["artifactCollectionName"] for each in made if each["runName"]}
    inputs = {each["input"]["artifactID"] for each in service.variables("UseArtifact")}
    assert inputs == {"items", "members"}
    assert {name for name in outputs if not name.startswith("run-")} == {"members", "bundle"}
    committed = [each["artifactID"] for each in service.variables("CommitArtifact")]
    assert committed.count("members") == 1  # one version
    assert not list(here.iterdir())
    everything = [json.dumps(service.asked).encode(), *service.files.values()]
    assert not [word for word in SECRETS[: len(WORDS)] for each in everything if word in each]


# What goes wrong


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """The address of a service that takes every connection and never answers."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:  # closed
                    return

        threading.Thread(target=take, daemon=True).start()
        yield taken
        server.shutdown(socket.SHUT_RDWR)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_a_service_that_never_answers_does_not_hold_the_run_up(world, multirun, tmp_path, silent):
    folder = tmp_path / "run"
    ended = world.run(folder, "tracker=online", "tracker.timeout=12")
    waited = time.time() - (folder / "report.html").stat().st_mtime
    assert ended.code == 0, ended.err
    assert silent  # it was asked
    assert 11 < waited < 12 + 5
    (path,) = run_files(folder)
    said = (folder / "run.log").read_text()
    assert "not sent (Weights & Biases was not done in time" in said
    assert f"`wandb sync {path.parent}` sends it" in said
    own = expected_summary(folder)
    assert tracked(folder).summary.items() >= own.items()  # nothing is lost


def test_after_a_run_that_could_not_be_sent_no_later_one_waits(found, silent, tmp_path, caplog):
    online = replace(OFFLINE, mode="online", timeout=12)
    warned, asked = [], []
    for job in ("0", "1", "2"):
        run = replace(found, folder=tmp_path / job)
        run.folder.mkdir()
        caplog.clear()
        online(run)
        (record,) = caplog.records
        (path,) = run_files(run.folder)
        assert record.message.endswith(f"; `wandb sync {path.parent}` sends it")
        assert tracked(run.folder).about.display_name == run.name
        warned.append(record.message.partition(";")[0])
        asked.append(len(silent))
    first, *later = warned
    assert first.startswith("not sent (Weights & Biases was not done in time")
    assert later == ["not sent (sending failed before)"] * 2
    assert asked[0]
    assert len(set(asked)) == 1  # nobody was asked again


def test_offline_speaks_to_nobody(finished, silent, caplog):
    with at_most(12):
        OFFLINE(finished)
    assert not silent
    assert not caplog.records
    assert tracked(finished.folder).about.display_name == finished.name


def refused(folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """What was warned of: the run was not tracked."""
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("not tracked (")
    assert record.message.endswith(f"; everything is in {folder}")
    return record.message


def test_a_place_that_cannot_be_written_ends_in_a_warning(finished, caplog):
    (finished.folder / "wandb").write_text("a file is here")
    OFFLINE(finished)
    assert "wandb" in refused(finished.folder, caplog)


def test_a_disk_that_takes_no_more_ends_in_a_warning(finished, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        OFFLINE(finished)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in refused(finished.folder, caplog)


def test_the_bundle_of_a_run_that_was_here_before_is_replaced(finished, caplog):
    (finished.folder / "bundle").mkdir()
    (finished.folder / "bundle" / "old").touch()
    replace(OFFLINE, bundle=True)(finished)
    assert not caplog.records
    assert not (finished.folder / "bundle" / "old").exists()
    assert (finished.folder / "bundle" / MANIFEST).exists()


def test_a_bundle_that_cannot_be_written_leaves_the_run_tracked(finished, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))  # less than an encoder
    try:
        replace(OFFLINE, bundle=True)(finished)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (record,) = caplog.records
    assert record.message.startswith("no bundle is tracked (")
    assert not (finished.folder / "bundle").exists()
    assert {each.name for each in tracked(finished.folder).artifacts} >= {"items", "members"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('out of order')", "RuntimeError: out of order"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "no reason"),
        ("raise SystemExit(0)", "no reason"),
        ("import time; time.sleep(600)", "not done in time"),
    ],
)
def test_nothing_that_wandb_does_ends_the_run(finished, code, said, tmp_path, monkeypatch, caplog):
    (tmp_path / "broken" / "wandb").mkdir(parents=True)
    (tmp_path / "broken" / "wandb" / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"), prepend=":")
    with at_most(15):
        replace(OFFLINE, timeout=6)(finished)
    assert said in refused(finished.folder, caplog)
