"""Online scoring of boosted trees between real nodes over TLS: as in batch, from spares and without, and refusals."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest
from consent_issuer import OFTEN
from finished_jobs import finished
from test_online_bands import from_stock
from trial_federation import until
from trial_scoring import (
    PARTIES,
    PRIVATE,
    STACK,
    copy_of,
    rows,
    score,
    score_trees,
    scoring,
    set_policy,
    units_of,
)

from veilscore.models.boosted import Boosted, Stacked
from veilscore.models.chained import Chained
from veilscore.models.filed import load_model
from veilscore.models.steps import expected, steps_of
from veilscore.online.records import load_map
from veilscore.terms.bands import Bands


class Trained:
    """Homes with a model of trees, batch scores of all firms, and firms that every holder knows."""

    def __init__(self, folder, kind=Boosted):
        self.folder = folder
        self.model = load_model(folder / "bank" / "models" / "trees" / "model.json", kind)
        self.units = units_of(folder, self.model)
        tax, registry = rows(folder, "tax"), rows(folder, "registry")
        self.known = [f for f in self.units if f in tax and f in registry]
        self.not_at_tax = [f for f in self.units if f not in tax and f in registry]


@pytest.fixture(scope="module")
def trained():
    return Trained(finished(score_trees))


@pytest.fixture(scope="module")
def stacked():
    return Trained(finished(score_trees, "train_stack", STACK), Stacked)


@pytest.fixture(scope="module")
def private():
    return Trained(finished(score_trees, "train_boosting", PRIVATE), Chained)


@pytest.fixture
def homes(trained, tmp_path):
    return copy_of(trained.folder, tmp_path)


def test_online_and_batch_agree_with_and_without_spares(trained, homes, monkeypatch):
    used, made = from_stock(monkeypatch)
    first, later, unknown = trained.known[:1], trained.known[1:9], trained.not_at_tax[:2]

    async def scenario():
        async with scoring(homes) as command:
            bare = [await score(command, f"a{i}", firm, model="trees") for i, firm in enumerate(first)]
            used.clear()  # made when the request came
            await until(lambda: len(made) >= 2)  # nodes make spares while idle
            return bare + [
                await score(command, f"b{i}", firm, model="trees", on_missing="missing_code")
                for i, firm in enumerate([*later, *unknown])
            ]

    responses = asyncio.run(scenario())
    assert len(used) >= 2
    assert [r.units for r in responses] == [trained.units[f] for f in [*first, *later, *unknown]]
    assert [r.status for r in responses] == ["scored"] * 9 + ["fallback"] * 2
    assert responses[0].model_sha256 == trained.model.sha256
    assert {reason.party for r in responses for reason in r.reasons} <= {"bank", "tax, registry"}
    assert all(reason.points_lost > 0 for r in responses for reason in r.reasons)


STACKED = pytest.param("stacked", marks=pytest.mark.slow)  # whose training takes as long as all else here


@pytest.mark.parametrize("kind", [STACKED, "private"])
def test_other_models_of_trees_are_scored_as_in_batch(kind, request, tmp_path):
    stacked = request.getfixturevalue(kind)
    homes = copy_of(stacked.folder, tmp_path)
    firms = [*stacked.known[:3], *stacked.not_at_tax[:1]]

    async def scenario():
        async with scoring(homes) as command:
            return [
                await score(command, f"{output}{i}", firm, model="trees", on_missing="missing_code", output=output)
                for output in ("exact", "score")
                for i, firm in enumerate(firms)
            ]

    responses, units = asyncio.run(scenario()), [stacked.units[f] for f in firms]
    assert [r.units for r in responses[: len(firms)]] == units
    assert responses[0].model_sha256 == stacked.model.sha256
    assert [r.step for r in responses[len(firms) :]] == steps_of(stacked.model).index(np.array(units)).tolist()


@pytest.mark.parametrize("kind", ["trained", STACKED, "private"])
def test_steps_of_a_score_are_where_firms_are(kind, request):
    model = request.getfixturevalue(kind)
    units = np.array(list(model.units.values()))
    mean, deviation = expected(model.model.model_copy(update={"bands": {}}))
    # of private trees, whose noise moves the mean of the few firms here by 0.3 of a deviation from run to run
    assert abs(units.mean() - mean) < (3 if kind == "private" else 1) * deviation
    assert 0.4 < units.std() / deviation < 1.8
    step = steps_of(model.model.model_copy(update={"bands": {}})).index(units)
    lost = (step[:, None] == step) & (units[:, None] != units)
    assert lost.mean() < 0.08, "pairs of firms that a step does not tell apart"


def band_numbers(trained, units):
    return Bands.of(trained.model.bands, trained.model.scaling.units).index(np.array(units)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["trained", STACKED])
def test_bands_with_and_without_spares(which, tmp_path, request, monkeypatch):
    """Of trees and of a stack: those of the totals of a batch, and no total comes with them."""
    model = request.getfixturevalue(which)
    homes = copy_of(model.folder, tmp_path)
    for party in ("tax", "registry"):
        set_policy(homes, party, release=OFTEN | {"output": "band", "max_bands": 63, "min_band_width": 0})
    used, made = from_stock(monkeypatch)
    firms = [*model.known[:8], *model.not_at_tax[:2]]

    async def scenario():
        async with scoring(homes) as command:
            first = await score(command, "a", firms[0], model="trees", output="band")
            used.clear()  # made when the request came
            await until(lambda: len(made) >= 2)
            return [first] + [
                await score(command, f"b{i}", firm, model="trees", on_missing="missing_code", output="band")
                for i, firm in enumerate(firms[1:])
            ]

    responses = asyncio.run(scenario())
    assert len(used) >= 2
    assert [r.band_number for r in responses] == band_numbers(model, [model.units[f] for f in firms])
    assert len({r.band for r in responses}) > 2
    assert [r.status for r in responses] == ["scored"] * 8 + ["fallback"] * 2
    assert not any(r.units or r.score or r.probability_of_default or r.reasons for r in responses)


def test_the_band_of_a_firm_with_other_features_is_opened_again(trained, homes):
    firm, all_rows = trained.known[0], rows(homes, "bank")
    names = load_map(homes / "bank" / "models" / "trees" / "code_map.json").names
    given = [{name: all_rows[f][name] for name in names} for f in trained.known[:9]]

    async def scenario():
        async with scoring(homes) as command:
            return [
                await score(command, f"a{i}", firm, model="trees", features=one, output="band")
                for i, one in enumerate([*given, given[0]])
            ]

    found = [r.band_number for r in asyncio.run(scenario())]
    expected = band_numbers(trained, [plain_units(trained, homes, firm, one) for one in given])
    assert found == [*expected, expected[0]]
    assert len(set(expected)) > 1


def test_the_same_firm_with_other_features_is_opened_again(trained, homes):
    """What holders' parts add up to depends on the bank's own codes, so an earlier opening is no answer."""
    firm = trained.known[0]
    names = load_map(homes / "bank" / "models" / "trees" / "code_map.json").names
    all_rows = rows(homes, "bank")
    own = {name: all_rows[firm][name] for name in names}
    others = [{name: all_rows[f][name] for name in names} for f in trained.known[1:9]]

    async def scenario():
        async with scoring(homes) as command:
            first = await score(command, "a", firm, model="trees", features=own)
            changed = [await score(command, f"b{i}", firm, model="trees", features=o) for i, o in enumerate(others)]
            return first, changed, await score(command, "c", firm, model="trees", features=own)

    first, changed, again = asyncio.run(scenario())
    assert first.units == again.units == trained.units[firm]
    expected = [plain_units(trained, homes, firm, o) for o in others]
    assert [r.units for r in changed] == expected
    assert len({first.units, *expected}) > 1


def plain_units(trained, homes, firm, features):
    """Total in the clear, of the holders' rows of one firm and other features at the bank."""
    from veilscore.models.trees import coefficients, indicators
    from veilscore.online.model import codes_of_features
    from veilscore.tasks.context import load_trees

    codes = {}
    kept = {party: iter(load_trees(homes / party / "models", "trees").trees) for party in ("tax", "registry")}
    for party in PARTIES:
        code_map = load_map(homes / party / "models" / "trees" / "code_map.json")
        given = features if party == "bank" else {n: rows(homes, party)[firm][n] for n in code_map.names}
        codes[party] = codes_of_features(code_map, given)[0]
    total = trained.model.base_points
    for tree, points in zip(trained.model.trees, trained.model.points, strict=True):
        c = coefficients(tree, np.array(points), codes["bank"], np.array(trained.model.part("bank").n_codes))
        # the bank's model does not say how the holder splits
        n_codes = np.array(trained.model.part(tree.holder).n_codes)
        e = indicators(next(kept[tree.holder]), codes[tree.holder], n_codes)
        total += int((c[0] + (c[1:] * e).sum(axis=0))[0])
    return total


@pytest.mark.parametrize("damage", ["missing", "changed", "other version"])
def test_a_holders_part_that_is_not_the_models(trained, homes, damage):
    folder = homes / "tax" / "models" / "trees"
    for path in (folder / "trees.json", *folder.glob("versions/*/trees.json")):  # in use, and as it was filed
        if damage == "missing":
            path.unlink()
        elif damage == "changed":
            text = path.read_text()
            changed = re.sub(r'("codes": \[\s*)(\d+)', lambda found: found[1] + str(int(found[2]) ^ 1), text, count=1)
            assert changed != text
            path.write_text(changed)
        else:
            path.write_text((homes / "registry" / "models" / "trees" / "trees.json").read_text())

    async def scenario():
        async with scoring(homes) as command:
            return [
                await score(command, rule, trained.known[0], model="trees", on_missing=rule)
                for rule in ("fail", "neutral")
            ]

    failed, neutral = asyncio.run(scenario())
    assert failed.status == "failed"
    assert {p.party: p.status for p in failed.parties} == {"tax": "refused", "registry": "ok"}
    assert "missing, changed or of another version" in failed.parties[0].reason
    # registry does not open alone, so both count with what is expected of them given the bank's codes
    assert neutral.status == "fallback"
    low = trained.model.base_points + sum(min(p) for p in trained.model.points)
    high = trained.model.base_points + sum(max(p) for p in trained.model.points)
    assert low <= neutral.units <= high
