"""Leaf that each row reaches in trees that ask one party's columns alone: codes of a virtual column a tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Mask
from veilscore.errors import ParameterError, SchemaError
from veilscore.kernels import kernel
from veilscore.models.trees import Tree

Ints = Integers


def leaf_index(trees: Sequence[Tree], codes: CodeArray, n_codes: Ints) -> NDArray[np.uint16]:
    """Return the leaf of each row in each tree.

    Parameters
    ----------
    trees : each with a split, all of them on the holder's side.
    codes, n_codes : the holder's codes (n, d) and (d,).

    Returns
    -------
    (n, n_trees).

    Raises
    ------
    SchemaError : a split asks a column or code that the party does not have.
    """
    splits = [split for tree in trees for split in tree.splits]
    if any(tree.asks != "holder" for tree in trees):
        raise ParameterError("a leaf follows from one party's codes only in a tree that asks its columns alone")
    if any(s.column >= n_codes.size or not all(0 <= c < n_codes[s.column] for c in s.codes) for s in splits):
        raise SchemaError("a tree asks for a column or code that is not in this party's code map")
    first = np.cumsum([0, *(len(tree.splits) for tree in trees)]).astype(np.int64)
    columns = np.array([s.column for s in splits], dtype=np.int64)
    goes_left = np.zeros((len(splits), int(n_codes.max(initial=1))), np.bool_)
    for k, split in enumerate(splits):
        goes_left[k, list(split.codes)] = True
    children = np.array([(s.left, s.right) for s in splits], dtype=np.int64).reshape(-1, 2)
    out = np.empty((codes.shape[0], len(trees)), np.uint16)
    if len(trees):
        _walk(np.ascontiguousarray(codes, np.uint16), first, columns, goes_left, children, out)
    return out


@kernel("(u2[:,::1], i8[::1], i8[::1], b1[:,::1], i8[:,::1], u2[:,::1])")
def _walk(
    codes: NDArray[np.uint16],
    first: Ints,
    columns: Ints,
    goes_left: Mask,
    children: Ints,
    out: NDArray[np.uint16],
) -> None:
    for i in range(out.shape[0]):
        for tree in range(out.shape[1]):
            node = np.int64(0)
            while node >= 0:
                k = first[tree] + node
                node = children[k, 0] if goes_left[k, codes[i, columns[k]]] else children[k, 1]
            out[i, tree] = np.uint16(-1 - node)
