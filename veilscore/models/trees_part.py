"""Export a boosted model for the bank's validators: its own splits in real values, the holders' as numbered bits.

The export computes log-odds of bad from the bank's values and, for each split of a holder, whether the row goes left
there. The bits' meaning stays with the holder; the export names the hash of the holder's part that has it. Rounding to
points, and calibration, are applied by the model file itself. Of a private model the trees of partner BANK come first,
with their leaves' points: trees after them ask whether the sum of these points is at most a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from veilscore.data.codes import CodeMap, ColumnMap
from veilscore.data.column_bins import NumberBins, bins_to_json
from veilscore.errors import ConfigError
from veilscore.models.boosted import Boosted
from veilscore.models.chained import Chained, ChainTree
from veilscore.models.model import ScoreModel
from veilscore.models.trees import Split, Tree

FORMAT = "veilscore-boosted-bank-part/1"


def bit_names(model: Boosted) -> dict[str, tuple[str, ...]]:
    """Return, per holder, the name of each of its splits: HOLDER/tree among its trees/split, in order."""
    return {
        holder: tuple(f"{holder}/{t}/{k}" for t, tree in enumerate(model.parts_of(holder)) for k in tree.holder_splits)
        for holder in model.holder_sha256
    }


def trees_part(model: Boosted, code_map: CodeMap) -> dict[str, Any]:
    """Return the bank's part as JSON values; ConfigError where the code map is not the model's."""
    check_map(model, code_map)
    bank = model.parts[0]
    maps = {part.party: part.map_sha256 for part in model.parts}
    return {
        "format": FORMAT,
        "model": model.name,
        "version": model.version,
        "bank": bank.party,
        "model_sha256": model.sha256.hex(),
        "output": "log-odds of bad: intercept plus, for each tree, the leaf that the row reaches",
        "intercept": model.intercept,
        "scaling": model.scaling.model_dump(),
        "calibration": model.calibration.model_dump(),
        "columns": [{"name": column.name, **bins_to_json(column.bins)} for column in code_map.columns],
        "holders": [
            {"holder": h, "map_sha256": maps[h], "part_sha256": digest, "bits": list(bit_names(model)[h])}
            for h, digest in model.holder_sha256.items()
        ],
        "trees": list(_trees(model, code_map)),
    }


def check_map(model: ScoreModel, code_map: CodeMap) -> None:
    """Refuse a code map that is not the bank's of this model."""
    if code_map.hash != model.parts[0].map_sha256:
        raise ConfigError(f"the code map is not that of model {model.name}: restore it from backup")


def _trees(model: Boosted, code_map: CodeMap) -> Iterator[dict[str, Any]]:
    numbers = dict.fromkeys((*model.holder_sha256, model.parts[0].party), 0)
    for tree, points in zip(model.trees, model.points, strict=True):
        units = points if isinstance(model, Chained) else None
        root = _node(tree, 0 if tree.splits else -1, numbers[tree.holder], code_map, units)
        numbers[tree.holder] += 1
        yield {"partner": tree.holder, "root": root}
    if isinstance(model, Chained):
        yield from _chain_trees(model, code_map)


def _chain_trees(model: Chained, code_map: CodeMap) -> Iterator[dict[str, Any]]:
    for holder, chain in model.chains.items():
        place = {column: t for t, column in enumerate(model.columns_of(holder))}
        for one in chain:
            yield {"partner": holder, "root": _chain_node(one, f"{holder}/{place[one.column]}", code_map)}


def _chain_node(tree: ChainTree, bits: str, code_map: CodeMap) -> dict[str, Any]:
    """Return a tree of a chain: the cut of the bank, then the holder's cells one after the other."""
    cut = tree.cut
    if cut.column < 0:
        test: dict[str, Any] = {"own_score_at_most": cut.most}
    else:
        split = Split(side="bank", column=cut.column, codes=cut.codes, left=-1, right=-2)
        test = bank_test(split, code_map.columns[cut.column])
    no, yes = (_cells(*side, bits) for side in zip(tree.weights, tree.covers, strict=True))
    return {**test, "gain": tree.gain, "cover": sum(map(sum, tree.covers)), "left": yes, "right": no}


def _cells(weights: Sequence[float], covers: Sequence[float], bits: str) -> dict[str, Any]:
    node: dict[str, Any] = {"log_odds": weights[-1]}
    for cell in reversed(range(len(weights) - 1)):
        leaf = {"log_odds": weights[cell]}
        node = {"bit": f"{bits}/{cell + 1}", "gain": 0.0, "cover": sum(covers[cell:]), "left": leaf, "right": node}
    return node


def _node(tree: Tree, node: int, number: int, code_map: CodeMap, points: Sequence[int] | None = None) -> dict[str, Any]:
    if node < 0:
        leaf = {"log_odds": tree.weights[-1 - node]}
        return leaf if points is None else {**leaf, "points": points[-1 - node]}
    split = tree.splits[node]
    if split.side == "holder":
        test: dict[str, Any] = {"bit": f"{tree.holder}/{number}/{node}"}
    else:
        test = bank_test(split, code_map.columns[split.column])
    return {
        **test,
        "gain": split.gain,
        "cover": split.cover,
        "left": _node(tree, split.left, number, code_map, points),
        "right": _node(tree, split.right, number, code_map, points),
    }


def bank_test(split: Split, column: ColumnMap) -> dict[str, Any]:
    """Return a split of the bank in real values: which go left.

    A number column has `at_most` (None: every value) and `missing` ("left" or "right"), or, where some values have bins
    of their own, the `ranges` (above, at most; None: no end) and `special` values that go left; a category column has
    the `levels` that go left, and where `other` levels and `missing` go.
    """
    bins = column.bins
    left = {int(b) for b, code in enumerate(column.permutation.tolist()) if code in split.codes}
    missing = "left" if bins.missing in left else "right"
    kept = left - {bins.missing}
    if isinstance(bins, NumberBins) and bins.special:
        ends = (None, *bins.edges, None)
        return {
            "column": column.name,
            "ranges": [[ends[b], ends[b + 1]] for b in sorted(kept) if b < bins.n_ranges],
            "special": [bins.special[b - bins.n_ranges] for b in sorted(kept) if b >= bins.n_ranges],
            "missing": missing,
        }
    if isinstance(bins, NumberBins):
        if kept != set(range(len(kept))) or not kept:
            raise ConfigError(
                f"a split of {column.name} does not follow the order of its values: the model was changed"
            )
        at_most = bins.edges[len(kept) - 1] if len(kept) <= len(bins.edges) else None
        return {"column": column.name, "at_most": at_most, "missing": missing}
    rest = bins.missing if bins.other is None else bins.other
    return {
        "column": column.name,
        "levels": [level for b in sorted(kept) for level in bins.groups[b]],
        "other": "left" if rest in left else "right",
        "missing": missing,
    }
