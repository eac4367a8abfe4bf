"""Limits: the ladder of a product, and the caps of a product and of a firm over all products.

What counts is what the bank is bound to: the limits of all contracts that are drafted or signed.
"""

from __future__ import annotations

import sqlalchemy as sa

from party_bank.book import Book, BookEntry
from party_bank.book_tables import CONTRACTS
from party_bank.settings import BankSettings, Product, amount_of, shown_amount
from veilscore.errors import BookError

_BINDING = CONTRACTS.c.status.in_(("draft", "signed"))
_SUM = sa.func.coalesce(sa.func.sum(CONTRACTS.c.amount), 0)


def limit_of(product: Product, step: int | None) -> int:
    """Return the limit of a step of the product's ladder in hundredths; 0 for step 0, and where there is no step.

    Raises BookError where the decision has more steps than the ladder.
    """
    if not step:
        return 0
    if step > len(product.ladder):
        raise BookError(f"step {step} is beyond the ladder of {len(product.ladder)} limits: give both the same length")
    return amount_of(product.ladder[step - 1])


def firm_exposure(entry: BookEntry, firm: str, without: int | None = None) -> dict[str, int]:
    """Return what the bank is bound to lend to a firm, by product."""
    query = sa.select(CONTRACTS.c.product, _SUM.label("amount")).where(_BINDING, CONTRACTS.c.firm == firm)
    if without is not None:
        query = query.where(CONTRACTS.c.id != without)
    return {row["product"]: int(row["amount"]) for row in entry.rows(query.group_by(CONTRACTS.c.product))}


def room(entry: BookEntry, settings: BankSettings, firm: str, product: str, without: int | None = None) -> int:
    """Return how much more may be lent to a firm under a product, in hundredths; never negative.

    without : id of a contract that a new one replaces.
    """
    found = [amount_of(settings.product(product).ladder[-1])]
    if settings.firm_cap is not None:
        found.append(amount_of(settings.firm_cap) - sum(firm_exposure(entry, firm, without).values()))
    cap = settings.product(product).cap
    if cap is not None:
        query = sa.select(_SUM).where(_BINDING, CONTRACTS.c.product == product)
        query = query if without is None else query.where(CONTRACTS.c.id != without)
        found.append(amount_of(cap) - int(entry.scalar(query)))
    return max(0, min(found))


def check_caps(
    entry: BookEntry, settings: BankSettings, firm: str, product: str, amount: int, *, without: int | None = None
) -> None:
    """Refuse an amount that would pass the ladder, the product's cap or the firm's (BookError)."""
    entry.lock_name(f"cap of {product}")
    left = room(entry, settings, firm, product, without)
    if amount > left:
        raise BookError(
            f"{shown_amount(amount)} is over what {product} still allows this firm, {shown_amount(left)}: "
            "ask for less, or raise ladder, cap or firm_cap in bank.yaml"
        )


def product_exposure(book: Book) -> dict[str, int]:
    """Return what the bank is bound to lend, by product."""
    query = sa.select(CONTRACTS.c.product, _SUM.label("amount")).where(_BINDING).group_by(CONTRACTS.c.product)
    return {row["product"]: int(row["amount"]) for row in book.rows(query)}


def check_settings(book: Book, settings: BankSettings) -> None:
    """Refuse settings whose caps are below what the bank is bound to already (BookError names the first one)."""
    by_firm = sa.select(CONTRACTS.c.firm, _SUM.label("amount")).where(_BINDING).group_by(CONTRACTS.c.firm)
    lent = product_exposure(book)
    for name, product in settings.products.items():
        if product.cap is not None and amount_of(product.cap) < lent.get(name, 0):
            raise BookError(
                f"products.{name}.cap is {product.cap:,} in bank.yaml and {shown_amount(lent[name])} is lent already: "
                "raise the cap, or end contracts first"
            )
    most = max((int(row["amount"]) for row in book.rows(by_firm)), default=0)
    if settings.firm_cap is not None and amount_of(settings.firm_cap) < most:
        raise BookError(
            f"firm_cap is {settings.firm_cap:,} in bank.yaml and one firm has {shown_amount(most)} already: "
            "raise the cap, or end contracts first"
        )
