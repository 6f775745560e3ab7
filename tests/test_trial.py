"""Groups tried before there is a plan: what is said of them is what the plan's merge will do."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from little import CONF, NAMES, TINY, write_items
from sklearn.metrics import log_loss

from gwsmm.assembly import Assembly
from gwsmm.cli.run import build
from gwsmm.grouping.candidates import Candidates
from gwsmm.network import infer
from gwsmm.pipeline import prepare, run, trained
from gwsmm.store import LOG, claimed
from gwsmm.trial import Trial
from gwsmm.types import InputError

ALL = tuple(NAMES)


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    root = tmp_path_factory.mktemp("trial")
    write_items(root / "data")
    where = ["items=pasta", f"items.path={root / 'data'}", f"store={root / 'store'}"]

    def experiment(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            plan = (
                [] if any(each.startswith("grouping") for each in overrides) else ["grouping=all"]
            )
            given = [*TINY, *where, *plan, *overrides]
            return build(compose("config", overrides=given))

    return experiment


def tried(x) -> Candidates:
    return Trial(assembly=Assembly(x=x, members=trained(x, prepare(x))))


def entropy_of(x, scorer, item) -> float:
    """The loss by scikit-learn, of probabilities that the network gives to each response."""
    network = x.encoder.network(len(item.labels))
    network.load_scorer(scorer)
    network.eval()
    ids = x.encoder.tokenize(item.validation.texts)
    said = infer(network, ids, x.encoder.padding, network).sigmoid().numpy().astype(float)
    columns = zip(item.validation.labels.T, said.T, strict=True)
    return float(np.mean([log_loss(y, p, labels=[0, 1]) for y, p in columns]))


def test_the_loss_of_a_group_is_that_of_the_plan_that_has_it(composed):
    x = composed("grouping=all")
    found = run(x, prepare(x))
    candidates = tried(x)
    (losses,) = candidates.losses([ALL])
    assert losses == pytest.approx(
        [entropy_of(x, each.after, each.item) for each in found.outcomes], abs=1e-6
    )
    alone = candidates.losses([(name,) for name in ALL])
    assert [loss for (loss,) in alone] == pytest.approx(
        [entropy_of(x, each.before, each.item) for each in found.outcomes], abs=1e-6
    )


def test_losses_see_no_test_response(composed):
    assert all(len(item.test) == 0 for item in tried(composed()).items)


@pytest.mark.parametrize("private", ["nothing", "pooler", "svd"])
def test_a_cloud_does_not_drift_where_nothing_is_merged_and_does_where_it_is(composed, private):
    x = composed(f"private={private}")
    candidates = tried(x)
    for signal in ("distance", "cka"):
        alone, pair = candidates.drifts([ALL[:1], ALL[1:3]], signal)
        assert alone == (0.0,)
        assert len(pair) == 2
        assert min(pair) > 0


def test_a_better_private_part_drifts_less(composed):
    coarse, fine = (
        tried(composed("private=svd", f"private.rank={rank}")).drifts([ALL], "cka")[0]
        for rank in (1, 16)
    )
    assert sum(fine) < sum(coarse) / 2


def test_the_distance_of_the_drift_is_that_of_the_experiment(composed):
    one, other = (
        tried(composed(f"distance={name}")).drifts([ALL], "distance")[0]
        for name in ("gw_exact", "sliced_wasserstein")
    )
    assert one != other
    with pytest.raises(InputError, match=r"^grouping.signal=distance: .*grouping.signal=cka$"):
        tried(composed("distance=task_vector_cosine")).drifts([ALL], "distance")


def test_cosines_are_those_of_the_distance_of_that_name(composed):
    x = composed("distance=task_vector_cosine")
    np.testing.assert_array_equal(tried(composed()).cosines(), run(x, prepare(x)).distances.values)


@pytest.mark.parametrize("grouping", ["validated", "drift", "oracle"])
def test_a_plan_that_was_tried_is_carried_out(composed, grouping):
    x = composed(f"grouping={grouping}", "grouping.encoders=3")
    found = run(x, prepare(x))
    assert len(found.plan.groups) == 3
    pairs = list(combinations(ALL, 2))
    candidates = tried(x)
    if grouping == "drift":
        cost = [sum(each) for each in candidates.drifts(pairs, "distance")]
    else:
        own = dict(zip(ALL, (sum(e) for e in candidates.losses([(n,) for n in ALL])), strict=True))
        merged = candidates.losses(pairs)
        cost = [sum(e) - sum(own[n] for n in p) for p, e in zip(pairs, merged, strict=True)]
    assert found.plan.merged_items == pairs[int(np.argmin(cost))]


@pytest.mark.parametrize("numbers", ["float32", "float16"])
def test_what_is_tried_leaves_its_scores_and_no_encoder(composed, monkeypatch, tmp_path, numbers):
    store = tmp_path / "store"
    shared = [f"store={store}", f"numbers={numbers}", "evidence=pairs", "heads=keep"]

    def evidence():
        x = composed(*shared, "grouping=all")
        return x, run(x, prepare(x)).attempts

    _, found = evidence()
    kept = {path.name for path in (store / "merge").iterdir() if not path.suffix}
    assert len(kept) == 1  # the plan's own
    assert list((store / "passing").iterdir()) == []

    made = (store / LOG).read_text()
    x, again = evidence()
    assert again == found
    assert (store / LOG).read_text() == made
    assert x.kept.used["merge"] == kept

    monkeypatch.setattr("gwsmm.trial._AT_ONCE", 1)
    others = [each for each in shared if not each.startswith("store")]
    x = composed(f"store={tmp_path / 'other'}", *others, "grouping=all")
    assert run(x, prepare(x)).attempts == found


def test_a_merge_that_is_learned_is_kept(composed, tmp_path):
    x = composed(
        f"store={tmp_path / 'store'}", "merge=joint", "merge.recipe.epochs=1", "grouping=none"
    )
    tried(x).losses([ALL[:2]])
    (merged,) = (path for path in (tmp_path / "store" / "merge").iterdir() if not path.suffix)
    assert (merged / "trunk.safetensors").exists()


def test_what_a_killed_process_left_of_its_trials_goes_with_the_next(composed, tmp_path):
    store = Path(composed(f"store={tmp_path / 'store'}").store)
    kept = composed(f"store={store}").kept
    with kept.passing() as theirs:
        killed = store / "passing" / f"{'0' * 32}.part"
        (killed / "merge").mkdir(parents=True)
        theirs.root.mkdir()
        with kept.passing() as ours:
            ours.root.mkdir()
            assert not killed.exists()
            assert theirs.root.exists()
            with claimed(ours.root.with_suffix(".lock")) as free:
                assert not free
        assert not ours.root.exists()
