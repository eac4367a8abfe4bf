"""Define trees over the codes of the bank and one holder, their values, and the form that is scored in two halves.

A row's value in a tree is the sum over leaves of w_l B_l H_l, where B_l says that the bank's codes allow the leaf and
H_l that the holder's do. The holder's side is spanned by 1 and one indicator e_s for each of its splits ("its codes
allow the node, and go left at it"): H_l is an e_s, or a parent's indicator minus one. So a tree is
c_0 + sum_s c_s e_s, with c at the bank alone (weights and its own path) and e at the holder alone (no weight).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from veilscore.arrays import Array, CodeArray, Integers, Mask, Vector
from veilscore.errors import ConfigError, SchemaError
from veilscore.models.model import Filed
from veilscore.terms.settings import parse_json

MAX_SPLITS = 1 << 10  # of one tree
MAX_TREES = 1 << 12


class Split(Filed):
    """One inner node.

    side : whose column it tests.
    column : index of the column among its party's columns; -1 where it is not told.
    codes : codes of that column that go left, ascending.
    left, right : the children: k >= 0 is the tree's split k, -1 - l its leaf l.
    gain, cover : gain of the loss and sum of h at the node, as the bank saw them; 0 in a holder's part.
    """

    side: Literal["bank", "holder"]
    column: int = Field(ge=-1)
    codes: tuple[int, ...]
    left: int
    right: int
    gain: float = 0.0
    cover: float = 0.0


class Tree(Filed):
    """A tree of the bank with one holder; a child always has a higher index than its parent.

    holder : the partner.
    splits : inner nodes, the root first; none for a tree of one leaf.
    weights : log-odds of bad of each leaf, learning rate included; empty in a holder's part.
    covers : sum of h in each leaf, for explanations; empty in a holder's part, or where it is not known.
    """

    holder: str
    splits: tuple[Split, ...] = Field(max_length=MAX_SPLITS)
    weights: tuple[float, ...]
    covers: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _well_formed(self) -> Tree:
        children = [child for split in self.splits for child in (split.left, split.right)]
        inner = sorted(child for child in children if child >= 0)
        leaves = sorted(-1 - child for child in children if child < 0)
        n_leaves = len(self.splits) + 1
        if inner != list(range(1, len(self.splits))) or (self.splits and leaves != list(range(n_leaves))):
            raise ValueError("a tree's nodes do not form a tree")
        if any(0 <= child <= k for k, split in enumerate(self.splits) for child in (split.left, split.right)):
            raise ValueError("a tree's child stands before its parent")
        if self.weights and len(self.weights) != n_leaves:
            raise ValueError(f"a tree of {n_leaves} leaves has {len(self.weights)} weights")
        if self.covers and len(self.covers) != n_leaves:
            raise ValueError(f"a tree of {n_leaves} leaves has {len(self.covers)} covers")
        return self

    @property
    def n_leaves(self) -> int:
        """Return the number of leaves."""
        return len(self.splits) + 1

    @property
    def holder_splits(self) -> tuple[int, ...]:
        """Return the indices of the holder's splits, in the order of their indicators e_s."""
        return tuple(k for k, split in enumerate(self.splits) if split.side == "holder")

    @property
    def asks(self) -> Literal["bank", "holder", "both"]:
        """Say whose columns the tree's splits test; the bank's where there is no split."""
        sides = {split.side for split in self.splits}
        return "both" if len(sides) > 1 else "holder" if "holder" in sides else "bank"

    def shape(self) -> Tree:
        """Return what the holder learns of the tree: its own splits whole, of the bank's only where they stand."""
        hidden: dict[str, Any] = {"column": 0, "codes": ()}
        splits = tuple(
            s.model_copy(update={"gain": 0.0, "cover": 0.0, **({} if s.side == "holder" else hidden)})
            for s in self.splits
        )
        return Tree(holder=self.holder, splits=splits, weights=())

    def skeleton(self) -> Tree:
        """Return where splits stand and whose they are, which is what both parties know of a sealed tree."""
        splits = tuple(s.model_copy(update={"column": -1, "codes": (), "gain": 0.0, "cover": 0.0}) for s in self.splits)
        return Tree(holder=self.holder, splits=splits, weights=())

    def with_columns(self, columns: Iterator[int]) -> Tree:
        """Fill in the holder's anonymous columns, taken from an iterator."""
        splits = tuple(
            s if s.side == "bank" else s.model_copy(update={"column": int(next(columns))}) for s in self.splits
        )
        return self.model_copy(update={"splits": splits})

    def paths(self) -> Iterator[tuple[int, list[tuple[int, bool]]]]:
        """Yield each leaf and the (split, goes left) on its path from the root."""
        stack: list[tuple[int, list[tuple[int, bool]]]] = [(0 if self.splits else -1, [])]
        while stack:
            node, path = stack.pop()
            if node < 0:
                yield -1 - node, path
                continue
            split = self.splits[node]
            stack.append((split.right, [*path, (node, False)]))
            stack.append((split.left, [*path, (node, True)]))


def left_table(splits: Sequence[Split], n_codes: Integers) -> Mask:
    """Return whether a row goes left at each of a party's splits, by its code: (n_splits, most codes).

    Raises SchemaError where a split uses a column or code that the party does not have.
    """
    table = np.zeros((len(splits), int(n_codes.max(initial=1))), bool)
    for k, split in enumerate(splits):
        if split.column >= n_codes.size or any(not 0 <= code < n_codes[split.column] for code in split.codes):
            raise SchemaError("a tree asks for a column or code that is not in this party's code map")
        table[k, list(split.codes)] = True
    return table


def goes_left(split: Split, codes: CodeArray, n_codes: Integers) -> Mask:
    """Return which rows go left at a split of the party with these codes (n, d): (n,); raises as `left_table`."""
    return np.asarray(left_table((split,), n_codes)[0, codes[:, split.column]])


def indicators(tree: Tree, codes: CodeArray, n_codes: Integers) -> Mask:
    """Return the holder's e_s of each of its splits in the tree, for rows (n, d): (n_holder_splits, n)."""
    n = codes.shape[0]
    allowed: dict[int, Mask | None] = {0: None}  # None: every row
    found = []
    for k, split in enumerate(tree.splits):
        at = allowed.pop(k)  # there already: a child stands after its parent
        left = right = at
        if split.side == "holder":
            goes = goes_left(split, codes, n_codes)
            left = goes if at is None else goes & at
            right = ~goes if at is None else at & ~goes
            found.append(left)
        allowed[split.left], allowed[split.right] = left, right
    return np.stack(found) if found else np.zeros((0, n), bool)


def _open_to_bank(
    tree: Tree, codes: CodeArray, n_codes: Integers
) -> Iterator[tuple[int, list[tuple[int, bool]], Mask]]:
    """Yield each leaf, its path, and the rows that the bank's own splits let through to it."""
    left = {k: goes_left(s, codes, n_codes) for k, s in enumerate(tree.splits) if s.side == "bank"}
    for leaf, path in tree.paths():
        mine = np.ones(codes.shape[0], bool)
        for k, is_left in path:
            if k in left:
                mine &= left[k] if is_left else ~left[k]
        yield leaf, path, mine


def coefficients(tree: Tree, values: Array, codes: CodeArray, n_codes: Integers) -> Array:
    """Return the bank's c of each row, for one value a leaf: (1 + n_holder_splits, n), the constant first.

    values : (n_leaves,) or (n_leaves, n), e.g. leaf weights as floats or as points; float64 or int64, as is the result.
    codes, n_codes : the bank's codes of the rows (n, d) and (d,).
    """
    n = codes.shape[0]
    numbers = {k: i + 1 for i, k in enumerate(tree.holder_splits)}
    out = np.zeros((1 + len(numbers), n), values.dtype)
    for leaf, path, mine in _open_to_bank(tree, codes, n_codes):
        # H of the leaf: e of the last left turn (1 where there is none) less e of each right turn after it
        terms = {0: 1}
        for k, is_left in path:
            if k not in numbers:
                continue
            if is_left:
                terms = {numbers[k]: 1}
            else:
                terms[numbers[k]] = -1
        value = np.where(mine, values[leaf], values.dtype.type(0))
        for index, sign in terms.items():
            out[index] += sign * value
    return out


def leaf_range(tree: Tree, codes: CodeArray, n_codes: Integers) -> tuple[Vector, Vector]:
    """Return the least and greatest weight that a row may get as far as the bank's codes (n, d) tell: (n,) each."""
    n = codes.shape[0]
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    for leaf, _, mine in _open_to_bank(tree, codes, n_codes):
        weight = tree.weights[leaf]
        low[mine], high[mine] = np.minimum(low[mine], weight), np.maximum(high[mine], weight)
    return low, high


def tree_values(tree: Tree, codes: dict[str, CodeArray], n_codes: dict[str, Integers], values: Array) -> Array:
    """Return the value of each row in the clear: the two halves put together, for checks of what was trained.

    codes, n_codes : of "bank" and "holder", (n, d) and (d,) each.
    """
    c = coefficients(tree, values, codes["bank"], n_codes["bank"])
    e = indicators(tree, codes["holder"], n_codes["holder"])
    return np.asarray(c[0] + (c[1:] * e).sum(axis=0))


def shapes_digest(trees: Sequence[Tree], salt: bytes = b"") -> bytes:
    """Return the digest of what one holder knows of its trees: its part of the model has this hash."""
    body = json.dumps([tree.shape().model_dump(mode="json") for tree in trees], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(salt + body.encode()).digest()


def skeletons_digest(trees: Sequence[Tree]) -> bytes:
    """Return the digest of what both parties know of sealed trees."""
    return shapes_digest([tree.skeleton() for tree in trees])


class HolderTrees(Filed):
    """A holder's part of a boosted model: its own splits, and the shape of the trees around them.

    holder, model : whose part of which model (name of the job).
    map_sha256 : hash of the code map that the splits' codes refer to.
    trees : shapes of the holder's trees, in the order of the model.
    salt : hexadecimal, of the digest; empty where the bank knows the splits.
    """

    format: Literal["veilscore-holder-trees/1"] = "veilscore-holder-trees/1"
    holder: str
    model: str
    map_sha256: str
    trees: tuple[Tree, ...] = Field(max_length=MAX_TREES)
    salt: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", repr=False)

    @property
    def sha256(self) -> bytes:
        """Return the digest of the trees' shapes; the bank's model names it."""
        return shapes_digest(self.trees, bytes.fromhex(self.salt))

    def to_json(self) -> str:
        """Return the part as JSON with its digest."""
        return json.dumps({"sha256": self.sha256.hex(), "part": self.model_dump(mode="json")}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> HolderTrees:
        """Read what `to_json` wrote; ConfigError if it is no such part or was changed."""
        try:
            body = parse_json(text)
            part, stated = cls.model_validate(body["part"]), body["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError("not a holder's part of a boosted model: restore it from backup") from error
        if part.sha256.hex() != stated:
            raise ConfigError("a holder's part of a boosted model was changed: its hash does not match; restore it")
        return part

    def bits(self, codes: CodeArray, n_codes: Integers) -> Mask:
        """Return all indicators of all trees, in order: (n_bits, n)."""
        rows = [indicators(tree, codes, n_codes) for tree in self.trees]
        return np.concatenate(rows) if rows else np.zeros((0, codes.shape[0]), bool)
