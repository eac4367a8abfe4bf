"""Event tables that a business registry keeps of simulated firms: firms, changes, penalties, patents, reports."""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Array
from veilscore.data.life import INDUSTRIES, MONTHS, Tables, World, dates, month_start, pick

_CHANGES = {
    "legal_representative": 0.2,
    "shareholder": 0.25,
    "capital": 0.15,
    "address": 0.2,
    "scope": 0.15,
    "name": 0.05,
}
_PENALTIES = {"market": 0.5, "tax": 0.2, "environment": 0.15, "safety": 0.15}
_FORMS = {"limited": 0.75, "sole_proprietor": 0.17, "partnership": 0.05, "joint_stock": 0.03}
_SCOPES = (
    "批发零售日用百货、五金交电", "机械零部件加工与制造", "建筑工程施工、装饰装修", "道路普通货物运输、仓储服务",
    "软件开发与信息技术咨询", "餐饮服务、食品经营", "农产品种植、收购与销售", "企业管理咨询与商务服务",
)  # fmt: skip


def events(world: World) -> Tables:
    """Return the tables of a block of firms."""
    rng = world.rng("registry")
    strain = np.exp(0.6 * np.clip(world.distress, -2, 4))
    return {
        "firms": _firms(world, rng),
        "changes": _changes(world, rng, strain),
        "penalties": _penalties(world, rng, strain),
        "patents": _patents(world, rng),
        "annual_reports": _reports(world, rng),
    }


def _firms(world: World, rng: np.random.Generator) -> dict[str, Array]:
    capital = np.round(np.exp(13 + 1.1 * world.size + 0.8 * rng.standard_normal(world.n)), -3)
    return {
        "uscc": world.ids.astype(object),
        "established_on": dates(world.founded),
        "recorded_on": dates(world.founded + 3),
        "industry": np.array(INDUSTRIES, dtype=object)[world.industry],
        "legal_form": pick(rng, _FORMS, world.n),
        "capital": capital,
        "scope": np.array(_SCOPES, dtype=object)[world.industry],
    }


def _changes(world: World, rng: np.random.Generator, strain: Array) -> dict[str, Array]:
    found = world.occur(rng, 0.02 * strain)
    return {
        "uscc": world.ids[found.firm].astype(object),
        "changed_on": dates(found.day),
        "recorded_on": dates(found.day + rng.geometric(0.1, found.n)),
        "kind": pick(rng, _CHANGES, found.n),
    }


def _penalties(world: World, rng: np.random.Generator, strain: Array) -> dict[str, Array]:
    found = world.occur(rng, 0.006 * strain)
    return {
        "uscc": world.ids[found.firm].astype(object),
        "decided_on": dates(found.day),
        "published_on": dates(found.day + rng.integers(5, 30, found.n)),
        "authority": pick(rng, _PENALTIES, found.n),
        "amount": np.round(np.exp(8.5 + rng.standard_normal(found.n)), 0),
    }


def _patents(world: World, rng: np.random.Generator) -> dict[str, Array]:
    inventive = np.isin(world.industry, (1, 4))
    rate = np.where(inventive, 0.03, 0.004) * np.exp(0.5 * world.quality)
    found = world.occur(rng, np.broadcast_to(rate[:, None], (world.n, MONTHS)))
    return {
        "uscc": world.ids[found.firm].astype(object),
        "filed_on": dates(found.day),
        "published_on": dates(found.day + rng.integers(120, 540, found.n)),
        "kind": pick(rng, {"invention": 0.25, "utility": 0.55, "design": 0.2}, found.n),
    }


def _reports(world: World, rng: np.random.Generator) -> dict[str, Array]:
    firm, year = np.nonzero(world.alive[:, [11, 23, 35]])
    month = np.array([11, 23, 35])[year]
    n, end = len(firm), month_start(month + 1) - 1
    late = rng.random(n) < 0.08 * np.exp(0.4 * np.clip(world.distress[firm, month], -2, 4))
    revenue = np.exp(world.sales[firm, month - 11] + np.log(12) + 0.2 * rng.standard_normal(n))
    margin = 0.05 + 0.03 * world.quality[firm] - 0.03 * world.distress[firm, month] + 0.05 * rng.standard_normal(n)
    assets = revenue * np.exp(0.3 + 0.4 * rng.standard_normal(n))
    return {
        "uscc": world.ids[firm].astype(object),
        "year_end": dates(end),
        "filed_on": dates(end + np.where(late, rng.integers(182, 400, n), rng.integers(20, 181, n))),
        "revenue": np.round(revenue, 0),
        "profit": np.round(revenue * margin, 0),
        "assets": np.round(assets, 0),
        "liabilities": np.round(assets * np.clip(0.5 + 0.1 * world.distress[firm, month], 0.05, 1.5), 0),
        "employees": np.ceil(np.exp(2 + 0.8 * world.size[firm] + 0.3 * rng.standard_normal(n))),
    }
