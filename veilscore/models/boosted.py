"""Define a boosted model and a stack as the bank files them: trees with points per leaf, provenance and hash.

Leaf points are whole units, fixed once at export, so that batch and online add the same numbers. A holder's column is
known by its anonymous name and codes alone; which values they are stays with the holder (`trees.HolderTrees`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from veilscore.arrays import CodeArray, Integers
from veilscore.errors import ConfigError
from veilscore.models.model import Filed, ScoreModel
from veilscore.models.trees import Tree, coefficients


class Boosted(ScoreModel):
    """A trained joint boosting model.

    trees : in the order of training, with leaf weights in log-odds of bad.
    points : per tree, units of each leaf.
    parameters : the job's parameters, as trained.
    holder_sha256 : per holder, the digest of its part (`trees.HolderTrees`).
    """

    format: Literal["veilscore-boosted/1"] = "veilscore-boosted/1"
    trees: tuple[Tree, ...]
    points: tuple[tuple[int, ...], ...]
    parameters: dict[str, Any] = Field(default_factory=dict)
    holder_sha256: dict[str, str]

    @model_validator(mode="after")
    def _points_of_all_leaves(self) -> Boosted:
        if [len(points) for points in self.points] != [tree.n_leaves for tree in self.trees]:
            raise ValueError("points do not belong to the trees' leaves")
        return self

    @property
    def boosted_trees(self) -> tuple[Tree, ...]:
        """Return the trees that boosting grew."""
        return self.trees

    @property
    def partners(self) -> set[str]:
        """Return the holders without whose part no row can be scored."""
        return {tree.holder for tree in self.trees if tree.asks != "bank"}

    def parts_of(self, holder: str) -> tuple[Tree, ...]:
        """Return the trees that a holder scores, as both know them."""
        return self.trees_of(holder)

    def factors(self, holder: str, chosen: Sequence[int], codes: CodeArray) -> tuple[Integers, Integers]:
        """Return what chosen trees of a holder add to rows (n, d) at the bank alone (n,), and with each bit (bits, n).

        chosen : places in `parts_of`; codes : the bank's.
        """
        both = zip(self.trees, self.points, strict=True)
        mine = [(tree, np.array(points, np.int64)) for tree, points in both if tree.holder == holder]
        c = [coefficients(*mine[place], codes, self.parts[0].n_codes) for place in chosen]
        return np.sum([one[0] for one in c], axis=0), np.concatenate([one[1:] for one in c])

    def points_of(self, holder: str, chosen: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Return the leaves' units of chosen trees that ask the holder alone."""
        mine = [points for tree, points in zip(self.trees, self.points, strict=True) if tree.holder == holder]
        return tuple(mine[place] for place in chosen)

    def extremes(self) -> tuple[int, int]:
        """Return the smallest and the largest total that the model allows, in units."""
        low, high = (sum(end(points) for points in self.points) for end in (min, max))
        return self.base_points + low, self.base_points + high

    def trees_of(self, holder: str) -> tuple[Tree, ...]:
        """Return the trees with one holder, in order."""
        return tuple(tree for tree in self.trees if tree.holder == holder)

    def check_part(self, holder: str, digest: bytes) -> None:
        """Refuse a holder's part that is not this model's."""
        if self.holder_sha256.get(holder) != digest.hex():
            raise ConfigError(
                f"{holder}'s part of model {self.name} is missing, changed or of another version", party=holder
            )

    def largest_units(self) -> int:
        """Return a bound of a total in units, which must fit the ring that totals are opened in."""
        return abs(self.base_points) + sum(max(abs(p) for p in points) for points in self.points)


class StackMember(Filed):
    """One level-one model in the stack; `kind` "own" is the WOE of a column of the bank.

    name : what the report calls it.
    weight : level two's weight of its log-odds.
    """

    kind: Literal["scorecard", "boosting", "own"]
    name: str
    weight: float = Field(ge=0, allow_inf_nan=False)


class Stacked(Boosted):
    """A stack: the trees of all members, with the points of their weighted sum.

    members : level-one models with their weights.
    level_two_intercept : on the log-odds of the members, intercepts included.
    n_boosted : how many trees are boosted ones; each of the others is a column of the scorecard, a leaf a code.
    """

    format: Literal["veilscore-stacked/1"] = "veilscore-stacked/1"  # type: ignore[assignment]
    members: tuple[StackMember, ...]
    level_two_intercept: float
    n_boosted: int = Field(ge=0)

    @property
    def boosted_trees(self) -> tuple[Tree, ...]:
        """Return the trees of its boosted member."""
        return self.trees[: self.n_boosted]
