"""Batch scoring of trees: totals to the last unit in every form, refusals, hostile messages."""

from __future__ import annotations

import numpy as np
import pytest
from random_trees import boosted, part, plain_units, random_tree

from veilscore.errors import ConfigError, MessageError, ParameterError, RefusedError, SchemaError, VeilscoreError
from veilscore.lattice.bfv import element_bytes
from veilscore.lattice.params import PRODUCT_OPEN, SCORE_T
from veilscore.models.leaf_index import leaf_index
from veilscore.models.trees import HolderTrees, indicators, tree_values
from veilscore.protocols import tree_scoring
from veilscore.protocols.adding import coordinator_add
from veilscore.protocols.scoring import HolderAnswer, holder_receive
from veilscore.protocols.tree_scoring import bank_score_trees, bounds, forms, holder_score_trees
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, decode, encode

RNG = np.random.default_rng(11)
N_CODES = {"bank": np.array([6, 3, 9]), "tax": np.array([5, 7, 4]), "registry": np.array([3, 8])}
MAP = "11" * 32


def counts(holder):
    return {"bank": N_CODES["bank"], "holder": N_CODES[holder]}


def model_of(holders=("tax", "registry"), n_trees=6, sides=("bank", "holder"), **options):
    trees = [random_tree(RNG, h, counts(h), sides=sides, **options) for _ in range(n_trees) for h in holders]
    return boosted(
        trees, [part("bank", "bank", N_CODES["bank"]), *(part(h, "holder", N_CODES[h], MAP) for h in holders)]
    )


def codes_of(n):
    return {p: np.stack([RNG.integers(0, k, n) for k in c], 1).astype(np.uint8) for p, c in N_CODES.items()}


def score(model, n=300, *, codes=None, rows=None, refusal="", parts=None, **options):
    holders = tuple(p.party for p in model.parts[1:])
    rows = RNG.random(n) < 0.6 if rows is None else rows
    codes = codes or codes_of(n)
    sessions = {p: Session("job/score/1", p, "bank", holders) for p in ("bank", "coordinator", *holders)}

    def holder(name):
        request = yield from holder_receive(sessions[name], rows.size)
        assert request.trees_hash.hex() == model.holder_sha256[name]
        answer = HolderAnswer(codes[name][rows], N_CODES[name], np.zeros(int(rows.sum()), bool), True, refusal)
        mine = (parts or {}).get(name) or tuple(tree.shape() for tree in model.trees_of(name))
        return (yield from holder_score_trees(sessions[name], "coordinator", request, answer, mine))

    roles = {
        "bank": bank_score_trees(sessions["bank"], "coordinator", rows, codes["bank"][rows], model),
        "coordinator": coordinator_add(sessions["coordinator"]),
    } | {h: holder(h) for h in holders}
    done = simulate(roles, sessions, **{"timeout_s": 20.0, **options})
    return done, plain_units(model, {p: c[rows] for p, c in codes.items()}), rows


@pytest.mark.parametrize("holders", [("tax",), ("tax", "registry")])
def test_paired_trees_are_exact(holders):
    done, expected, rows = score(model_of(holders))
    assert np.array_equal(done["bank"].points, expected)
    assert {done[h] for h in holders} == {int(rows.sum())}
    assert all(not done["bank"].unknown[h].any() for h in holders)


def test_several_blocks_and_groups(monkeypatch):
    """Blocks of 8192 rows, the last one short, and more vectors than one message holds."""
    monkeypatch.setattr(tree_scoring, "GROUP", 5)
    done, expected, _ = score(model_of(("tax",), n_trees=2), rows=np.ones(2 * 8192 + 700, bool), n=2 * 8192 + 700)
    assert np.array_equal(done["bank"].points, expected)


@pytest.mark.parametrize("n", [40, 20_000])
def test_trees_of_the_holders_columns_alone(n):
    """By product for few rows, by lookup for many."""
    model = model_of(("tax",), n_trees=3, sides=("holder",), n_leaves=4)
    assert bool(forms(model.trees, n).looked_up) == (n == 20_000)
    done, expected, _ = score(model, n, rows=np.ones(n, bool))
    assert np.array_equal(done["bank"].points, expected)


def test_all_forms_in_one_model():
    n = 20_000
    trees = [
        random_tree(RNG, h, counts(h), sides=sides, n_leaves=4)
        for h in ("tax", "registry")
        for sides in (("bank", "holder"), ("holder",), ("bank",))
    ]
    trees += [random_tree(RNG, "tax", counts("tax"), n_leaves=1), random_tree(RNG, "tax", counts("tax"), n_leaves=2)]
    parts = [part("bank", "bank", N_CODES["bank"]), *(part(h, "holder", N_CODES[h], MAP) for h in ("tax", "registry"))]
    model = boosted(trees, parts)
    done, expected, _ = score(model, n, rows=np.ones(n, bool))
    assert np.array_equal(done["bank"].points, expected)


def test_trees_of_the_bank_alone_need_no_ciphertext():
    model, kinds = model_of(("tax",), sides=("bank",)), []

    def watch(sender, recipient, sequence, payload):
        kinds.append(kind_of(payload))
        return [payload]

    done, expected, _ = score(model, tamper=watch)
    assert np.array_equal(done["bank"].points, expected)
    assert {"BatchBankFactors", "BatchBankQuery", "BatchHolderHints"}.isdisjoint(kinds)


def test_totals_at_both_ends_of_the_ring():
    """The whole span below the modulus can be told apart."""
    model = model_of(("tax",), n_trees=1)
    low, high = bounds(model)
    wide = [list(p) for p in model.points]
    wide[0][int(np.argmax(wide[0]))] += SCORE_T - 1 - (high - low)
    model = model.model_copy(update={"points": tuple(map(tuple, wide))})
    done, expected, _ = score(model)
    assert np.array_equal(done["bank"].points, expected)
    wide[0][int(np.argmax(wide[0]))] += 1
    with pytest.raises(ParameterError, match="fewer points_decimals"):
        score(model.model_copy(update={"points": tuple(map(tuple, wide))}))


def test_leaf_of_each_row():
    trees = [random_tree(RNG, "tax", counts("tax"), sides=("holder",), n_leaves=k) for k in (2, 9, 16)]
    codes = codes_of(500)
    leaves = leaf_index(trees, codes["tax"], N_CODES["tax"])
    for j, tree in enumerate(trees):
        values = np.arange(tree.n_leaves)
        mine = {"bank": codes["bank"], "holder": codes["tax"]}
        assert np.array_equal(leaves[:, j], tree_values(tree, mine, counts("tax"), values))
        assert indicators(tree, codes["tax"], N_CODES["tax"]).shape == (len(tree.splits), 500)
    with pytest.raises(SchemaError, match="code map"):
        leaf_index(trees, codes["tax"], N_CODES["tax"] - 3)
    with pytest.raises(ParameterError):
        leaf_index([random_tree(RNG, "tax", counts("tax"), sides=("bank",))], codes["tax"], N_CODES["tax"])


def test_a_part_with_another_number_of_indicators_cannot_pass():
    model, other = model_of(("tax",)), model_of(("tax",), n_trees=7)
    mine = {"tax": tuple(tree.shape() for tree in other.trees)}
    with pytest.raises(VeilscoreError):
        score(model, 5000, rows=np.ones(5000, bool), parts=mine, timeout_s=2.0)


def test_holders_that_are_not_the_models_are_refused():
    model = model_of(("tax", "registry"))
    with pytest.raises(ConfigError, match="registry"):
        tree_scoring.holder_parts(model, ("tax",))
    with pytest.raises(ConfigError, match="court"):
        tree_scoring.holder_parts(model, ("tax", "registry", "court"))


def test_refusal_is_told_to_the_bank():
    with pytest.raises(RefusedError, match="another version"):
        score(model_of(("tax",)), refusal="another version", timeout_s=5.0)


def test_a_changed_part_is_noticed():
    model = model_of(("tax",))
    mine = HolderTrees(holder="tax", model="boost", map_sha256=MAP, trees=tuple(t.shape() for t in model.trees))
    assert HolderTrees.from_json(mine.to_json()) == mine
    assert mine.sha256.hex() == model.holder_sha256["tax"]
    text = mine.to_json()
    for wrong in (text.replace('"left"', '"lift"', 1), text[:-20], "[]", text.replace('"column": 1', '"column": 2')):
        with pytest.raises(ConfigError):
            HolderTrees.from_json(wrong)


def hostile(kind, name, value):
    def tamper(sender, recipient, sequence, payload):
        if kind_of(payload) != kind.__name__:
            return [payload]
        message = decode(payload, kind, session="", sender=sender)
        setattr(message, name, value(getattr(message, name)) if callable(value) else value)
        return [encode(message)]

    return tamper


FAULTS = [
    (pb.BatchBankRound0, "trees", False),
    (pb.BatchBankRound1, "part_hash", b"short"),
    (pb.BatchBankKey, "product_public", lambda data: data[:-1]),
    (pb.BatchBankKey, "product_public", lambda data: b"\xff" * len(data)),
    (pb.BatchBankFactors, "block", 1),
    (pb.BatchBankFactors, "part", 1),
    (pb.BatchBankFactors, "ciphertext_enc", lambda data: data[:-1]),
    (pb.BatchBankFactors, "ciphertext_enc", lambda data: b"\xff" * len(data)),
    (pb.BatchBankFactors, "ciphertext_enc", b""),
    (pb.BatchHolderReply, "block", 7),
    (pb.BatchHolderReply, "reply_enc", lambda data: data[:-1]),
    (pb.BatchHolderReply, "reply_enc", lambda data: b"\xff" * len(data)),
    (pb.BatchHolderPartial, "data", lambda data: b"\xff" * len(data)),
    (pb.BatchCoordinatorTotal, "data", lambda data: data[:-8]),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[0].__name__}-{f[1]}")
def test_wrong_messages_are_refused(fault):
    with pytest.raises(VeilscoreError):
        score(model_of(), tamper=hostile(*fault), timeout_s=1.0)


def test_bytes_of_a_value():
    """15 bytes, so that 100 trees of depth 4 on 100,000 rows stay below 1.2 GB."""
    assert element_bytes(PRODUCT_OPEN) == 15 * PRODUCT_OPEN.N
    with pytest.raises(MessageError):
        score(model_of(("tax",)), tamper=hostile(pb.BatchHolderReply, "reply_enc", b""), timeout_s=1.0)
