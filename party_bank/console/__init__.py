"""What the bank adds to the console: portfolio, firms and portraits, applications, campaigns, renewals, policies."""

from __future__ import annotations

from pathlib import Path

from veilscore.console.home import ConsoleHome
from veilscore.console.page import Site
from veilscore.files.extras import missing_of


def bank_site(home: ConsoleHome) -> Site | None:
    """Return the bank's pages for a home that has a bank.yaml; None without one, or without the extra `bank`."""
    from party_bank.settings import FILE  # noqa: PLC0415 - only where it is needed

    if not (home.path / FILE).is_file() or missing_of("bank"):
        return None
    from party_bank.console import assistant, backtests, credit_reports, lending, owner_links, policies  # noqa: PLC0415 - loads SQLAlchemy and the policy engine
    from party_bank.console.open_book import OpenBook  # noqa: PLC0415

    book, policy_pages = OpenBook(home), policies.PolicyPages(home)
    folder = Path(__file__).parent
    return Site(
        pages=(
            *book.in_one_state(lending.pages(book)),
            *book.in_one_state(credit_reports.pages(credit_reports.CreditReportPages(book))),
            *owner_links.pages(owner_links.OwnerLinkPages(book)),
            *policies.pages(policy_pages),
            *assistant.pages(assistant.AssistantPages(home)),
            *backtests.pages(backtests.BacktestPages(home, policy_pages)),
        ),
        templates=folder / "templates",
        catalogues=folder / "locale",
        close=book.close,
    )
