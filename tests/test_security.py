"""What others wrote is data: it runs nothing, stays in its folder and learns no secret.

SECURITY.md promises it. Readers of broken files are in test_fuzz, the page in test_report.
"""

import ast
import csv
import io
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from little import TINY, gwsmm, write_items
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import audit
from fuzz_targets import bundles

from gwsmm.bundle.manifest import read_manifest
from gwsmm.bundle.table import to_csv
from gwsmm.cli.composing import rebuild, shown
from gwsmm.encoder import Encoder
from gwsmm.grouping.record import read_record
from gwsmm.items import files, reading
from gwsmm.items.reading import read
from gwsmm.items.split import check_name
from gwsmm.report.table import Table, latex, write_tables
from gwsmm.types import InputError

SRC = Path(__file__).parents[1] / "src"


# Nothing is executed.

PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal"}  # modules, wherever
METHODS = {"read_pickle", "load_from_checkpoint"}  # whatever they are methods of
REFUSED = {
    *("eval", "exec", "compile", "__import__"),
    *(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__")),
    *("os.system", "os.popen", "torch.load", "torch.serialization.load", "torch.jit.load"),
    *("torch.hub.load", "torch.package", "joblib.load", "numpy.lib.format.read_array"),
    *(f"yaml.{name}{end}" for name in ("load", "unsafe_load", "full_load") for end in ("", "_all")),
    *("yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader"),
}
SAFE = {  # keywords that have one safe value
    "allow_pickle": False,
    "shell": False,
    "trust_remote_code": False,
    "use_safetensors": True,
}


def imported(tree: ast.AST) -> dict[str, str]:
    """What the names that a module imports stand for, in full."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                first = each.name.split(".")[0]
                found[each.asname or first] = each.name if each.asname else first
                found[each.name] = each.name
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                found[each.asname or each.name] = f"{node.module}.{each.name}"
    return found


def runs_code(text: str) -> list[str]:
    """By which names a module could run code that it reads, in full whatever their alias."""
    tree = ast.parse(text)
    stands_for = imported(tree)

    def in_full(node: ast.AST) -> str:
        first, dot, rest = ast.unparse(node).partition(".")
        return stands_for.get(first, first) + dot + rest

    names = set(stands_for.values())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            names.add(in_full(node))
        elif isinstance(node, ast.Call):
            found += [
                f"{each.arg}={ast.unparse(each.value)}"
                for each in node.keywords
                if each.arg in SAFE and ast.unparse(each.value) != str(SAFE[each.arg])
            ]
            # the third argument is allow_pickle, and ** may hold it
            hidden = len(node.args) > 2 or any(each.arg is None for each in node.keywords)
            if in_full(node.func) == "numpy.load" and hidden:
                found.append("numpy.load")
    for name in names:
        parts = name.split(".")
        if name in REFUSED or PICKLES & {*parts} or parts[-1] in {*METHODS, "*"}:
            found.append(name)
    return found


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_that_can_run_code_is_called_or_imported(path):
    assert runs_code(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "def f():\n    from joblib.externals import cloudpickle",
        "import joblib.externals.cloudpickle",
        "import torch\ntorch.load(p)",
        "import torch as t\nread = partial(t.load)",
        "from torch import load",
        "from torch import load as read\nread(p)",
        "from torch import serialization\nserialization.load(p)",
        "from torch import *",
        "import numpy\nnumpy.load(p, allow_pickle=True)",
        "import numpy as np\nnp.load(p, None, True)",
        "import numpy as np\nnp.load(p, **given)",
        "from numpy import load\nload(p, allow_pickle=given)",
        "import pandas\npandas.read_pickle(p)",
        "import pandas as anything\nanything.read_pickle(p)",
        "from pandas import read_pickle",
        "from joblib import load as anything",
        "import yaml\nyaml.load(p, yaml.Loader)",
        "from yaml import unsafe_load",
        "eval(p)",
        "import builtins\nbuiltins.exec(p)",
        "import subprocess\nsubprocess.run(p, shell=True)",
        "Module.load_from_checkpoint(p)",
        "AutoModel.from_pretrained(p, trust_remote_code=True)",
        "AutoModel.from_pretrained(p, use_safetensors=None)",
    ],
)
def test_what_can_run_code_is_found_by_whatever_name(text):
    assert runs_code(text)


@pytest.mark.parametrize(
    "text",
    [
        "import numpy as np\nnp.load(p)\nnp.load(p, allow_pickle=False)",
        "import json\njson.load(p)",
        "from safetensors.torch import load\nload(p)",
        "import re\nre.compile(p)",
        "import yaml\nyaml.safe_load(p)",
    ],
)
def test_what_reads_data_alone_is_not_taken_for_it(text):
    assert runs_code(text) == []


def test_no_model_brings_its_own_code():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SRC.rglob("*.py")]
    loads = [
        {each.arg: ast.unparse(each.value) for each in node.keywords}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("Auto")
    ]
    assert len(loads) >= 4
    assert {given.get("trust_remote_code") for given in loads} == {"False"}


class Boom:
    """Says so when it is unpickled."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.at,))


def test_what_lies_beside_a_checkpoint_is_not_executed(tiny, tmp_path, monkeypatch):
    folder, ran = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    tiny.write_architecture(folder)
    for name in ("pytorch_model.bin", "model.pt", "vectors.npy", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Boom(ran)))
    code = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nclass Evil: ...\n"
    (folder / "evil.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    named = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": named}))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    base = {"revision": None, "pooling": "cls", "pooler": True, "max_length": 16}
    with pytest.raises(InputError, match="pickled weights are never read"):
        Encoder(model=str(folder), random=None, **base).pretrained()
    drawn = Encoder(model=str(folder), random={}, **base)
    drawn.network(labels=1)
    drawn.tokenize(["a gas"])
    config["model_type"] = "evil"  # which transformers does not have
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": named}))
    with pytest.raises(InputError):
        Encoder(model=str(folder), random={}, **base).network(labels=1)
    assert not ran.exists()


EVIL = [
    *("os.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "torch.load"),
    *("torch.hub.load", "torch.nn.Linear", "hydra.utils.call", "hydra.utils.instantiate"),
    "hydra._internal.utils._locate",
    # classes that modules of ours and of torch import
    *("gwsmm.tracking.subprocess.Popen", "torch.utils.cpp_extension.subprocess.Popen"),
    "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
    *("gwsmm.cli.composing.locate", "gwsmm.cli.run.shutil.rmtree", "gwsmm.store.os.system"),
    *("gwsmm.cli.main.main", "gwsmm", "gwsmm.", "gwsmm..store", "gwsmm.store.Store.fetch"),
]


def evil(target: str, ran: Path) -> list[dict]:
    """Ways to have it called."""
    call = {"_target_": target, "_args_": [[f"touch {ran}"]], "shell": True}
    root = {"_target_": "gwsmm.experiment.Experiment"}
    return [
        call,
        {**call, "_partial_": True},
        {**root, "name": call},
        {**root, "_args_": [[call]]},
        {**root, "_recursive_": False, "x": {"y": [call]}},
        {**root, "what": target, "x": {**call, "_target_": "${what}"}},
        {**root, "x": f"${{oc.create:{{_target_:{target}}}}}"},
    ]


@pytest.mark.parametrize("target", EVIL)
def test_a_configuration_names_nothing_but_classes_of_this_package(target, tmp_path):
    for content in evil(target, tmp_path / "ran"):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(InputError, match="only classes of gwsmm"):
            rebuild(tmp_path / "config.yaml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch ran']",
        "_target_: !!python/name:os.system ''",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "[" * 1500,
        "_target_: &t gwsmm.experiment.Experiment\nname: *t",
    ],
)
def test_yaml_is_data_and_short(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    for reader in (rebuild, lambda path: read_record(str(path))):
        with pytest.raises(InputError) as refused:
            reader(Path("config.yaml"))
        assert "\n" not in str(refused.value)
    assert not Path("ran").exists()


# Nothing is written where it does not belong.


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "C:x", "a\0b", "a\nb", "\x1b[31m"),
        *("x" * 81, "字" * 70, "a.", "a ", " a", "-a", ".a", "a..b", "a\u2028b", "\ud800"),
        *("con", "NUL", "com1", "LPT9", "aux.txt", "nul .x", "\\input", "=1+1", "$(ls)", "`ls`"),
        *("\\write18{ls}", "<b>", "[red]", "a%b", "a|b"),
    ],
)
def test_a_name_that_is_no_plain_file_name_is_refused(name):
    with pytest.raises(InputError, match="cannot be a file name") as refused:
        check_name(name)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("name", ["é" * 80, "Item 1.b", "contour", "_", "комплекс"])
def test_a_plain_name_is_taken(name):
    check_name(name)


@pytest.mark.parametrize(
    "name", ["../b/x", "a/../../x", "/etc/passwd", "a/../b", "a\\..\\x", "c:x", "a\0b", ".."]
)
def test_a_path_of_a_manifest_that_leaves_its_folder_is_refused(name, tmp_path):
    content = json.loads(bundles()[0]["manifest.json"])
    content["files"][name] = {"bytes": 1, "sha256": "0"}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="leaves the bundle"):
        read_manifest(tmp_path)


# Nothing is read that would fill the machine.


def test_a_table_that_unpacks_to_very_much_is_refused(tmp_path, monkeypatch):
    text = pa.DictionaryArray.from_arrays(np.zeros(200_000, np.int32), ["x" * 1000])
    packed = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": text, "E1": np.zeros(200_000, np.int8)}), packed)
    assert packed.stat().st_size < 100_000
    monkeypatch.setattr(reading, "MOST_CELLS", 100_000)
    with pytest.raises(InputError, match="divide it into several files"):
        read(packed)
    (tmp_path / "t.csv").write_text("text,E1\nx,1\n")
    monkeypatch.setattr(files, "LARGEST", 5)
    with pytest.raises(InputError, match="divide it into several files"):
        read(tmp_path / "t.csv")


# What is written is text wherever it is opened.

FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(1)", "-2+3|' /C'!A0"]
PLAIN = ["-1", "+3.5", "-1e-3", "a=b", "1", "", "it's", "-inf", None, -1, 2.5]


def test_no_cell_is_a_formula_and_numbers_stay_numbers(tmp_path):
    columns = {"=name": [*FORMULAS, *PLAIN], "n": [np.float32(-0.5)] * len([*FORMULAS, *PLAIN])}
    header, *rows = list(csv.reader(io.StringIO(to_csv(columns), newline="")))
    assert header == ["'=name", "n"]
    assert [row[0] for row in rows] == [
        *(f"'{each}" for each in FORMULAS),
        *("" if each is None else str(each) for each in PLAIN),
    ]
    assert {row[1] for row in rows} == {"-0.5"}
    labels = [each for each in FORMULAS if each[0].isprintable()]  # as names of columns are
    frame = pd.DataFrame({"label": labels, "micro F1": [-0.5] * len(labels)})
    write_tables([Table("t", "T", "", frame, {}, {})], tmp_path, [])
    with (tmp_path / "tables" / "t.csv").open(newline="") as file:
        _, *rows = list(csv.reader(file))
    assert [row[0] for row in rows] == [f"'{each}" for each in labels]
    assert {row[1] for row in rows} == {"-0.5"}


def test_no_cell_is_a_command_of_latex(tmp_path):
    evil = r"\input{x} \write18{ls} $x$ ^^5cinput a%b #1 ~"
    table = Table("t", "T\n\\input{x}", "a\nb", pd.DataFrame({"run": [evil], evil: [0.5]}), {}, {})
    text = latex(table)
    for command in (r"\input", r"\write", "$x", "^^", " a%", " #"):
        assert command not in text.replace(r"\$x", "")
    write_tables([table], tmp_path, [])
    comments = (tmp_path / "tables" / "t.tex").read_text().splitlines()[:2]
    assert [line[:2] for line in comments] == ["% ", "% "]


def test_a_terminal_is_told_nothing(tmp_path):
    folder = write_items(tmp_path / "\x1b[31mred", items=2)
    path = folder / "apples_train.csv"
    path.write_text(path.read_text().replace("E1", "E\x1b[2J1"))
    for options in ([], ["items=table", f"items.path={path}"], ["\x1b[31m=1"], ["merge=\x1b[31m"]):
        given = [*TINY, "items=pasta", f"items.path='{folder}'", *options]
        ended = gwsmm("run", *given, f"hydra.run.dir={tmp_path / 'run'}")
        assert ended.code == 2
        assert "\x1b" not in ended.err
        assert ended.err.count("\n") == 1, options


def test_a_run_of_others_tells_a_terminal_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # styles of the table itself stay
    for end in ("failed: \x1b[2Jwhy", "finished in 3 s: x"):
        run = tmp_path / f"\x1b[31m{end.split()[0]}"
        run.mkdir()
        (run / "run.log").write_text(f"2026-01-02 03:04:05,678 INFO gwsmm.cli.run: {end}\n")
        (run / "run.json").write_text('{"overrides": []}')
        chosen = {group: {"_target_": "x"} for group in ("items", "split")}
        content = {**chosen, "name": "ti\x1b[31mEVIL", "store": "sto\x1b[31mre"}
        (run / "config.yaml").write_text(yaml.safe_dump(content))
    ended = gwsmm("status", str(tmp_path))
    assert (ended.code, ended.err) == (0, "")
    assert "ti\\x1b[31mEVIL" in ended.out
    assert "failed: \\x1b[2Jwhy" in ended.out
    assert {"\x1b[31m", "\x1b[2J"} & {*re.findall(r"\x1b\[\d+\w", ended.out)} == set()
    assert "\x1b[1m" in ended.out


# No secret is told.


def test_no_secret_of_the_environment_is_in_any_file_of_a_run(tmp_path, monkeypatch):
    secrets = {
        "WANDB_API_KEY": "k7" * 20,
        "OPENAI_API_KEY": "sk-never-told",
        "MINE": "hunter2again",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    data = write_items(tmp_path / "data", items=2, train=24, test=8)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"source": "us", "groups": [["apples", "boats"]]}))
    ended = gwsmm(
        "run", *TINY, "finetune.epochs=1", "features.size=12",
        "items=pasta", f"items.path={data}", f"store={tmp_path / 'store'}",
        f"hydra.run.dir={tmp_path / 'run'}", "tracker=offline", "grouping=llm",
        f"grouping.record={plan}", "grouping.encoders=1",
        "grouping.chat.base_url='https://me:${oc.env:MINE}@nowhere.invalid'",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "https://me:${oc.env:MINE}@nowhere.invalid" in config
    contents = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for secret in secrets.values():
        assert not [path for path, content in contents.items() if secret.encode() in content]
        assert secret not in ended.out + ended.err


def test_a_configuration_is_written_without_what_the_environment_holds(monkeypatch):
    monkeypatch.setenv("MINE", "hunter2")
    said = {"a": "x-${oc.env:MINE}", "b": "${a}", "c": "${oc.env:NONE,7}", "d": [1, "${e}"], "e": 2}
    cfg = OmegaConf.create(said)
    found = shown(cfg)
    assert found == {**said, "b": "x-${oc.env:MINE}", "d": [1, 2]}
    assert cfg.a == "x-hunter2"  # the resolver is as it was
    assert OmegaConf.create(yaml.safe_load(OmegaConf.to_yaml(found))).b == "x-hunter2"


# What is installed.


def test_only_a_vulnerability_that_a_newer_version_mends_fails_the_audit():
    packages = [
        {"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2", "1.1"]}]},
        {"name": "b", "version": "1", "vulns": [{"id": "X-2", "fix_versions": []}]},
        {"name": "c", "version": "1", "vulns": []},
        {"name": "d", "skip_reason": "not found"},
    ]
    assert audit.judged(packages) == (["a 1: X-1: take 2 or 1.1"], ["b 1: X-2"])


def test_advisories_that_cannot_be_had_are_a_warning(monkeypatch, capsys):
    unreachable = subprocess.CompletedProcess([], 1, "", "ERROR: refused: https://nowhere.invalid")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: unreachable)
    audit.main()
    assert capsys.readouterr().out.startswith("WARNING: the packages were not audited")
