"""How the code hangs together: which module may know which, and what a strategy is."""

import ast
import inspect
import math
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import get_origin

import pytest
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from little import CONF
from omegaconf import OmegaConf
from pydantic import ValidationError

SRC = Path(__file__).parents[1] / "src" / "gwsmm"
FILES = sorted(SRC.rglob("*.py"))
FOUNDATION = (
    "types",
    "artefact",
    "progress",
    "task",
    "execute",
    "lease",
    "remote",
    "store",
    "encoder",
    "batching",
    "network",
    "metrics",
    "recipe",
    "asking",
    "disk",
    "plain",
    "spreadsheet",
)
STAGES = (
    "finetune",
    "features",
    "distance.solving",
    "distance.pairwise",
    "distance.stability",
    "distance.drifting",
    "merge.diagnosing",
    "merge.merging",
    "merge.learning",
    "private.coding",
    "heads.fitting",
    "decision.deciding",
    "evaluate",
    "rounding",
)
STRATEGIES = [
    path
    for path in sorted(CONF.glob("*/*.yaml"))
    if path.parent.name not in ("experiment", "hydra")
]


def name_of(path: Path) -> str:
    """`finetune` or `distance.pairwise`; a package by its own name."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "gwsmm"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node: ast.AST) -> Iterator[str]:
    """Every module that is imported, also within functions, but not for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not is_typing_only(child):
            yield from imports(child)


def own(path: Path) -> set[str]:
    """The modules of this package that a module imports."""
    known = {name_of(each) for each in FILES}
    found = {name.removeprefix("gwsmm.") for name in imports(tree(path)) if name != "gwsmm"}
    return found & known


def test_the_foundation_knows_nothing_of_what_stands_on_it():
    assert own(SRC / "types.py") == set()
    for name in FOUNDATION:
        assert own(SRC / f"{name}.py") <= {*FOUNDATION}, name


def test_nobody_knows_the_pipeline_but_the_command_line_and_nobody_knows_the_command_line():
    for path in FILES:
        name = name_of(path)
        if not name.startswith("cli"):
            assert not {each for each in own(path) if each.startswith("cli")}, name
            assert "pipeline" not in own(path), name


def test_stages_do_not_call_one_another():
    """They may take each other's settings and results, and never the stage itself."""
    for name in STAGES:
        path = SRC / f"{name.replace('.', '/')}.py"
        classes = {
            get: other
            for other in STAGES
            if other != name
            for get in stage_classes(SRC / f"{other.replace('.', '/')}.py")
        }
        used = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
        assert not used & set(classes), name


def stage_classes(path: Path) -> set[str]:
    """The classes of a module that have `stage: ClassVar[str] = …`."""
    return {
        node.name
        for node in tree(path).body
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.AnnAssign) and ast.unparse(line).startswith("stage: ClassVar")
    }


def test_every_stage_of_the_store_is_in_the_list_above():
    found = {name_of(path) for path in FILES if stage_classes(path)}
    assert found - {"store"} == set(STAGES)


@pytest.mark.parametrize(
    "folder", ["distance", "grouping", "merge", "heads", "decision", "private", "items"]
)
def test_strategies_know_no_stage_before_or_after_them(folder):
    # loading of clouds; the one Lightning module, which trains whatever it is given a loss for
    allowed = {*FOUNDATION, "features", "scoring"}
    for path in (SRC / folder).rglob("*.py"):
        outside = {name for name in own(path) if name.split(".")[0] != folder}
        others = outside - allowed - {"private.private", "grouping.linkage", "items.ordinal"}
        assert not others, (name_of(path), others)


@pytest.mark.parametrize("folder", ["report"])
def test_the_report_computes_nothing(folder):
    for path in (SRC / folder).rglob("*.py"):
        outside = {name for name in own(path) if name.split(".")[0] != folder}
        outside -= {name for name in outside if name.split(".")[0] == "study"}
        allowed = {"types", "results", "metrics", "evidence.bootstrap", "spreadsheet"}
        assert outside <= allowed, name_of(path)
        assert not {"torch", "ot", "transformers"} & set(imports(tree(path)))


def test_a_study_reads_what_runs_left_and_none_of_the_stages():
    for path in (SRC / "study").rglob("*.py"):
        outside = {name for name in own(path) if name.split(".")[0] not in ("study", "evidence")}
        allowed = {"types", "results", "grouping.linkage", "grouping.pairs", "plain"}
        assert outside <= allowed, name_of(path)
        assert not {"torch", "ot", "transformers"} & set(imports(tree(path)))


@pytest.mark.parametrize(
    ("framework", "doors"),
    [
        ("hydra", {"cli.run", "cli.composing", "cli.conducting", "cli.explain"}),
        ("omegaconf", {"cli.run", "cli.composing", "cli.conducting", "cli.explain"}),
        ("optuna", {"cli.search"}),
        ("transformers", {"encoder"}),
        ("huggingface_hub", {"encoder"}),
        ("wandb", {"recording"}),
        ("pytorch_lightning", {"scoring"}),
        ("joblib", {"execute"}),
        ("distributed", {"cluster.dask"}),
        ("ray", {"cluster.ray"}),
        ("fsspec", {"remote"}),
        ("filelock", {"store", "artefact", "cli.search"}),
        ("peft", {"lora"}),
        ("onnxruntime", {"bundle.running"}),
        ("tokenizers", {"bundle.running"}),
        ("matplotlib", {"report.figures"}),
        ("jinja2", {"report.page"}),
    ],
)
def test_every_framework_enters_by_one_door(framework, doors):
    users = {
        name_of(path)
        for path in FILES
        if any(name.split(".")[0] == framework for name in imports(tree(path)))
    }
    assert users == doors


def test_optimal_transport_is_used_by_distances_alone():
    users = {
        name_of(path) for path in FILES if "ot" in {n.split(".")[0] for n in imports(tree(path))}
    }
    assert users
    assert {name.split(".")[0] for name in users} == {"distance"}


def test_every_library_that_is_imported_is_declared():
    project = tomllib.loads((SRC.parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = [line for name, extra in extras.items() if name != "dev" for line in extra]
    declared = {plain(re.match(r"[\w.-]+", line)[0]) for line in project["dependencies"] + used}
    found = {name.split(".")[0] for path in FILES for name in imports(tree(path))}
    found -= {*sys.stdlib_module_names, "gwsmm"}
    carriers = packages_distributions()
    assert len(found) > 20
    assert not [name for name in found if not declared & {*map(plain, carriers.get(name, [name]))}]


def plain(distribution: str) -> str:
    """Its name as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_only_the_evaluation_looks_at_test_responses():
    """`without_test` in types.py empties them; results.py writes what the evaluation found."""
    readers = {
        name_of(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "test"
    }
    assert "evaluate" in readers
    allowed = {"evaluate", "results", "types"}
    assert not {name for name in readers if name not in allowed and not name.startswith("items.")}


# Strategies


def with_required(path: Path) -> dict:
    """The settings of a yaml, with what it leaves to the user filled in."""
    config = OmegaConf.create({"seed": 0, "store": "store", "it": OmegaConf.load(path)})
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "somewhere")
    return OmegaConf.to_container(config.it, resolve=True)


@pytest.mark.parametrize("path", STRATEGIES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_strategy_is_a_frozen_dataclass_whose_yaml_gives_every_field(path):
    settings = with_required(path)
    kind = get_class(settings["_target_"])
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert inspect.getdoc(kind)
    assert len(kind.__mro__) == 2  # it inherits nothing
    assert all(field.kw_only for field in fields(kind))
    for field in fields(kind):
        assert field.default is field.default_factory is MISSING, f"{field.name} has two defaults"
    assert {field.name for field in fields(kind)} == set(settings) - {"_target_"}

    built = instantiate(settings, _convert_="all")
    assert type(built) is kind
    for field in fields(kind):
        value = getattr(built, field.name)
        assert not OmegaConf.is_config(value)
        with pytest.raises((AttributeError, TypeError)):  # FrozenInstanceError
            setattr(built, field.name, value)
        # described where a user looks for it
        assert re.search(rf"`{field.name}`|\b{field.name}:", inspect.getdoc(kind)), field.name


@pytest.mark.parametrize("path", STRATEGIES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_strategy_refuses_a_field_that_is_unknown_missing_or_of_another_type(path):
    settings = with_required(path)
    kind = get_class(settings.pop("_target_"))
    with pytest.raises(ValidationError):
        kind(**settings, no_such_field=1)
    for name in settings:
        with pytest.raises(ValidationError):
            kind(**{key: value for key, value in settings.items() if key != name})
        with pytest.raises(ValidationError):
            kind(**settings | {name: object()})


def places(settings: dict | list) -> Iterator[tuple[dict | list, object]]:
    """Where a number stands in settings, or may stand: the container, and its key or position."""
    for key, value in settings.items() if isinstance(settings, dict) else enumerate(settings):
        if isinstance(value, dict | list):
            yield from places(value)
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield settings, key


@pytest.mark.parametrize("path", STRATEGIES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_strategy_refuses_what_is_infinite_or_no_number(path):
    settings = with_required(path)
    for container, key in places(settings):
        value = container[key]
        for wrong in (math.inf, -math.inf, math.nan):
            container[key] = wrong
            with pytest.raises(InstantiationException):
                instantiate(settings, _convert_="all")
        container[key] = value
    instantiate(settings, _convert_="all")


def test_no_strategy_inherits_from_another():
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                assert len(node.bases) <= 1, node.name


def test_every_protocol_is_kept_by_what_the_root_of_the_configuration_takes():
    from gwsmm.experiment import Experiment

    config = OmegaConf.load(CONF / "config.yaml")
    groups = {next(iter(each)) for each in config.defaults if not isinstance(each, str)}
    choices = {group for group in groups if not str(group).startswith(("override", "experiment"))}
    scalars = {key for key in config if key not in ("defaults", "hydra", "_target_")}
    assert {field.name for field in fields(Experiment)} == choices | scalars
    assert all(get_origin(field.type) is not dict for field in fields(Experiment))


# Imports that wait


@pytest.mark.parametrize(
    "module", ["gwsmm", "gwsmm.cli.main", "gwsmm.cli.run", "gwsmm.cli.clean", "gwsmm.pipeline"]
)
def test_torch_waits_until_there_is_work(module):
    heavy = ["torch", "transformers", "pytorch_lightning", "wandb", "ot", "sklearn", "matplotlib"]
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
