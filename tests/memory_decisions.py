"""Batches of decisions over channels in memory: random trees, a scorecard, points written by hand, knock-outs."""

from __future__ import annotations

import numpy as np
from decision_oracle import decided
from random_trees import boosted, part, plain_units, random_tree

from veilscore.lattice.params import SCORE_T
from veilscore.models.counts import offsets
from veilscore.models.loss import TURN
from veilscore.protocols.decision import (
    BankPoints,
    BankTreePoints,
    DecisionAnswer,
    DecisionRequest,
    HolderCellPoints,
    HolderPoints,
    HolderTreePoints,
    bank_decide,
    holder_decide,
    holder_receive_decision,
)
from veilscore.protocols.decision_circuit import FAILURES_RING, DecisionCircuit, MeasureCircuit
from veilscore.protocols.scoring import HolderPart
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

HASH, INPUTS = b"d" * 32, b"i" * 32
N_CODES = {
    "bank": np.array([6, 3, 9]),
    "tax": np.array([5, 7, 4]),
    "registry": np.array([3, 8]),
    "court": np.array([4]),
}


class World:
    """Firms of a bank and some holders, and three measures and knock-outs of them.

    Trees ask the bank, tax and registry; the scorecard asks tax; points by hand are of the bank and of the last holder,
    which also knocks out.
    """

    def __init__(self, seed, holders, n_rows, *, n_steps=5, n_trees=2, tell_measure=False):
        self.rng = rng = np.random.default_rng(seed)
        self.holders, self.n_rows = holders, n_rows
        self.codes = {
            p: np.stack([rng.integers(0, k, n_rows) for k in N_CODES[p]], 1).astype(np.uint8)
            for p in ("bank", *holders)
        }
        grown = [h for h in holders if h != "court"]
        trees = [
            random_tree(rng, h, {"bank": N_CODES["bank"], "holder": N_CODES[h]}, sides=sides, n_leaves=6)
            for h in grown
            for sides in (("bank", "holder"), ("holder",), ("bank",))[: 1 + n_trees]
            for _ in range(n_trees)
        ]
        parts = [
            part("bank", "bank", N_CODES["bank"]),
            *(part(h, "holder", N_CODES[h], "11" * 32) for h in grown),
        ]
        self.trees, self.grown = boosted(trees, parts), tuple(grown)
        self.points = rng.integers(-500, 500, N_CODES["tax"].sum())
        self.own = rng.integers(4000, 7000, n_rows)
        self.by_hand = {p: rng.integers(0, 900_000, n_rows) for p in ("bank", holders[-1])}
        self.failures = (rng.random(n_rows) < 0.1).astype(np.int64) * rng.integers(1, 4, n_rows)
        self.unknown = {h: rng.random(n_rows) < 0.1 for h in holders}
        self.limits = [
            np.quantile(total, np.linspace(0.1, 0.6, n_steps)).astype(np.int64).tolist() for total in self.totals()[:3]
        ]
        self.limits.append([0] * n_steps)
        self.bound = np.where(rng.random(n_rows) < 0.3, rng.integers(0, n_steps + 1, n_rows), n_steps)
        moduli = (SCORE_T, TURN, TURN, FAILURES_RING)
        self.circuit = DecisionCircuit(
            tuple(MeasureCircuit(tuple(c), m) for c, m in zip(self.limits, moduli, strict=True)),
            knock_outs=True,
            tell_measure=tell_measure,
        )
        self.request = DecisionRequest(n_rows, HASH, INPUTS)

    def totals(self):
        """Totals of each measure in the clear, the knock-outs last."""
        at = offsets(N_CODES["tax"])
        card = self.own + sum(self.points[at[j] + self.codes["tax"][:, j]] for j in range(3))
        units = plain_units(self.trees, {p: self.codes[p] for p in ("bank", *self.grown)})
        return [units, card, sum(self.by_hand.values()), -self.failures]

    def expected(self, last=None):
        return decided(self.limits, self.totals(), self.bound, knock_outs=True, last=last)

    def bank(self, session, request=None, levels=None):
        return bank_decide(session, request or self.request, self.circuit, self.measures(), self.bound, levels)

    def measures(self):
        """What the bank has of each measure."""
        part_of_tax = HolderPart(N_CODES["tax"], self.points, b"")
        return {
            "trees": BankTreePoints(self.trees, self.codes["bank"], self.grown),
            "card": BankPoints(self.own, {"tax": part_of_tax}),
            "capacity": BankPoints(self.by_hand["bank"]),
            "knock_outs": BankPoints(np.zeros(self.n_rows, np.int64)),
        }

    def answer(self, name, *, refusal="", levels=None):
        nothing, last = np.zeros(self.n_rows, np.int64), name == self.holders[-1]
        shapes = tuple(tree.shape() for tree in self.trees.trees_of(name))
        codes, n_codes = self.codes[name], N_CODES[name]
        measures = {
            "trees": HolderTreePoints(codes, n_codes, shapes) if name in self.grown else HolderPoints(nothing, SCORE_T),
            "card": HolderCellPoints(codes, n_codes) if name == "tax" else HolderPoints(nothing, TURN),
            "capacity": HolderPoints(self.by_hand[name] if last else nothing, TURN),
            "knock_outs": HolderPoints(-self.failures if last else nothing, FAILURES_RING),
        }
        circuit = None if refusal else self.circuit
        return DecisionAnswer(circuit, measures, self.unknown[name], name == "tax", refusal, levels)

    def run(self, *, number=1, refusals=None, request=None, bank_levels=None, lead_levels=None, **options):
        sessions = {p: Session(f"job{number}/decide/1", p, "bank", self.holders) for p in ("bank", *self.holders)}

        def holder(name):
            asked = yield from holder_receive_decision(sessions[name], self.n_rows)
            levels = lead_levels if name == self.holders[0] else None
            answer = self.answer(name, refusal=(refusals or {}).get(name, ""), levels=levels)
            return (yield from holder_decide(sessions[name], asked, answer))

        roles = {"bank": self.bank(sessions["bank"], request, bank_levels)} | {h: holder(h) for h in self.holders}
        return simulate(roles, sessions, **{"timeout_s": 20.0, **options})
