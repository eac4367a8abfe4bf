"""Event tables that a court keeps of simulated firms: cases with texts, enforcement, dishonest debtors."""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Array
from veilscore.data.life import MONTHS, Occurrences, Tables, World, dates, month_start, pick

CAUSES = {"loan": 0.3, "sale": 0.35, "labour": 0.15, "guarantee": 0.1, "other": 0.1}
_SHARE_ENGLISH = 0.15
_CHINESE = {
    "loan": (
        "原告诉称被告逾期未按约还款。被告拖欠借款本金{amount}元及利息。请求判令返还。",
        "双方因金融借款合同产生纠纷。标的{amount}元。原告申请财产保全。",
    ),
    "sale": (
        "被告欠付货款{amount}元。本案属买卖合同纠纷。原告多次催要未果。",
        "因买卖合同纠纷诉至本院。货款未付{amount}元。",
    ),
    "labour": ("劳动者主张被告拖欠工资及经济补偿共{amount}元。", "因劳动报酬争议提起诉讼。标的{amount}元。"),
    "guarantee": (
        "原告要求保证人对借款{amount}元承担连带清偿责任。",
        "因保证合同纠纷提起诉讼。请求被告承担保证责任{amount}元。",
    ),
    "other": ("双方因租赁合同产生纠纷。标的{amount}元。", "因承揽合同履行产生争议。涉及金额{amount}元。"),
}
_ENGLISH = {
    "loan": "The plaintiff claims an overdue loan of {amount} yuan; the defendant failed to repay it.",
    "sale": "Dispute over a sales contract: unpaid goods of {amount} yuan.",
    "labour": "Employees claim unpaid wages of {amount} yuan.",
    "guarantee": "The bank asks that the joint guarantee of {amount} yuan be honoured; guarantor liable.",
    "other": "Dispute over a lease; the claim is {amount} yuan.",
}
_STRAINED = ("法院裁定冻结被告账户。", "被告被列入失信被执行人名单。", "被告法定代表人失联。")


def events(world: World) -> Tables:
    """Return the tables of a block of firms."""
    rng = world.rng("court")
    strain = np.exp(1.0 * np.clip(world.distress, -2, 4))
    cases = world.occur(rng, 0.01 * strain)
    cause = pick(rng, CAUSES, cases.n)
    amount = np.round(np.exp(11 + 0.6 * world.size[cases.firm] + rng.standard_normal(cases.n)), 0)
    distress = world.distress[cases.firm, cases.month]
    defendant = rng.random(cases.n) < 0.75
    strained = np.flatnonzero(defendant & (distress > 0.5))
    return {
        "cases": {
            "uscc": world.ids[cases.firm].astype(object),
            "filed_on": dates(cases.day),
            "published_on": dates(cases.day + rng.integers(10, 120, cases.n)),
            "role": np.where(defendant, "defendant", "plaintiff").astype(object),
            "cause": cause,
            "amount": amount,
            "content": _texts(rng, cause, amount, defendant & (distress > 1.2)),
        },
        "enforcement": _enforcement(world, rng, cases.take(strained), amount[strained]),
        "dishonest_list": _dishonest(world, rng),
    }


def _texts(rng: np.random.Generator, cause: Array, amount: Array, strained: Array) -> Array:
    english, which = rng.random(len(cause)) < _SHARE_ENGLISH, rng.integers(0, 2, len(cause))
    more = rng.integers(0, len(_STRAINED), len(cause))
    found = np.empty(len(cause), dtype=object)
    for i, (kind, claim) in enumerate(zip(cause.tolist(), amount.tolist(), strict=True)):
        text = _ENGLISH[kind] if english[i] else _CHINESE[kind][which[i]]
        found[i] = text.format(amount=f"{claim:.0f}") + (_STRAINED[more[i]] if strained[i] and not english[i] else "")
    return found


def _enforcement(world: World, rng: np.random.Generator, cases: Occurrences, amount: Array) -> dict[str, Array]:
    """Return enforcement that follows half of the cases against strained firms, one to five months later."""
    followed = rng.random(cases.n) < 0.5
    cases, amount = cases.take(followed), amount[followed]
    ordered = cases.day + rng.integers(30, 150, cases.n)
    return {
        "uscc": world.ids[cases.firm].astype(object),
        "ordered_on": dates(ordered),
        "published_on": dates(ordered + rng.integers(3, 21, cases.n)),
        "amount": amount,
    }


def _dishonest(world: World, rng: np.random.Generator) -> dict[str, Array]:
    firm = np.flatnonzero((world.fails < MONTHS) & (rng.random(world.n) < 0.3))
    listed = month_start(world.fails[firm]) + rng.integers(120, 300, len(firm))
    inside = listed < month_start(np.array([MONTHS]))[0]
    firm, listed = firm[inside], listed[inside]
    return {
        "uscc": world.ids[firm].astype(object),
        "listed_on": dates(listed),
        "published_on": dates(listed + rng.integers(1, 10, len(firm))),
    }
