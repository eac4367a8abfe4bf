"""The bank's own settings: HOME/bank.yaml says where its book is, what it lends, and within which limits.

Amounts in the file are in whole units of the currency; in the book they are in hundredths.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from veilscore.errors import ConfigError
from veilscore.terms.console import ConsoleConfig
from veilscore.terms.decision import Purpose
from veilscore.terms.node_config import DatabaseUrl, database_url
from veilscore.terms.parameters import Name
from veilscore.terms.settings import Strict, VariableName, load

FILE = "bank.yaml"
BOOK = "state/book.db"
HUNDREDTHS = 100
Whole = Annotated[int, Field(ge=1, le=10**12)]


class BookPlace(Strict):
    """Says in which database the book is."""

    url: DatabaseUrl | None = Field(
        default=None, description="SQLAlchemy URL without password; null: SQLite in the home"
    )
    password_env: VariableName | None = Field(default=None, description="environment variable with its password")


class Product(Strict):
    """Says what the bank lends under one name."""

    ladder: tuple[Whole, ...] = Field(min_length=1, max_length=63, description="limits of steps 1, 2, ...; rising")
    cap: Whole | None = Field(default=None, description="most that all lines of this product may be together")
    months: int = Field(default=12, ge=1, le=120, description="term of a contract")
    rate_bp: int = Field(ge=0, le=10_000, description="interest of a year, hundredths of a per cent")
    earns_bp: tuple[int, ...] = Field(
        default=(),
        description="what a limit of each step earns in a year after expected losses, hundredths of a per cent; "
        "empty: rate_bp at every step",
    )
    valid_days: int = Field(default=30, ge=1, le=365, description="how long an offer is valid")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.ladder) != sorted(set(self.ladder)):
            raise ValueError("the limits of a ladder must rise")
        if self.earns_bp and len(self.earns_bp) != len(self.ladder):
            raise ValueError("earns_bp needs one number for each limit of the ladder")
        return self


class RenewalRules(Strict):
    """Says when contracts that end are looked at."""

    from_days: int = Field(
        default=90, ge=1, le=365, description="a renewal is prepared from so many days before the end"
    )
    to_days: int = Field(default=30, ge=0, le=365, description="and until so many")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.to_days >= self.from_days:
            raise ValueError("from_days must be more than to_days: both count back from the end of a contract")
        return self


class AlarmLevel(Strict):
    """Says what a level of the watch means: how many firms it disturbs, and what is done for them."""

    name: str = Field(min_length=1, max_length=60, description="name of the level, as the decision has it")
    share: float = Field(
        gt=0, le=0.5, description="share of the firms under watch that are below its cut-off in a month"
    )
    next_step: str = Field(min_length=1, max_length=400, description="what the account manager does")
    within_days: int = Field(default=10, ge=1, le=365, description="by when")


class OverdueTable(Strict):
    """Names the bank's table of firms that fell overdue."""

    path: Path = Field(description="CSV, Parquet or Excel file; a relative path begins at the home")
    firm: str = Field(default="uscc", description="column with the ids of firms")
    day: str = Field(default="overdue_on", description="column with the day")
    after_days: int = Field(
        default=0,
        ge=0,
        le=366,
        description="how many days a firm has been overdue on the day that the table names; the bank learns of it then",
    )
    cured: str | None = Field(default=None, description="column with the day on which it had paid; empty: not yet")


class LoanTable(Strict):
    """Names a table of what the bank lends besides the contracts of the book, such as loans older than it."""

    path: Path = Field(description="CSV, Parquet or Excel file; a relative path begins at the home")
    firm: str = Field(default="uscc", description="column with the ids of firms")
    begins: str = Field(default="drawn_on", description="column with the day from which it is owed")
    ends: str = Field(default="due_on", description="column with the day from which it no longer is")


class WarningRules(Strict):
    """Says what early warnings foretell, how many firms they may disturb, and from which tables they learn."""

    months: int = Field(default=3, ge=1, le=24, description="a warning is of a firm that falls overdue within so many")
    levels: tuple[AlarmLevel, ...] = Field(
        default=(
            AlarmLevel(name="look", share=0.10, next_step="look at its account, call the owner", within_days=10),
            AlarmLevel(name="act", share=0.02, next_step="visit it; agree on repayment or security", within_days=3),
        ),
        min_length=1,
        max_length=8,
        description="levels of the watch, the mildest first",
    )
    overdue: OverdueTable | None = Field(default=None, description="firms that fell overdue: the label, and reports")
    loans: LoanTable | None = Field(default=None, description="loans beside the contracts of the book")
    dataset: Name | None = Field(
        default=None, description="data set of node.yaml with features and id_columns, whose file `warning rows` writes"
    )

    @model_validator(mode="after")
    def _falling(self) -> Self:
        shares, names = [level.share for level in self.levels], [level.name for level in self.levels]
        if shares != sorted(set(shares), reverse=True):
            raise ValueError("shares of levels must fall: the mildest level, of most firms, comes first")
        if len(set(names)) < len(names):
            raise ValueError("two levels have one name")
        return self

    def of_level(self, level: int) -> AlarmLevel:
        """Return what a level of the watch means; a decision of more levels has the last one's meaning for them."""
        return self.levels[min(level, len(self.levels)) - 1]


class Budget(Strict):
    """Bounds what is lent in new limits at one time; what is not named is bounded by the total alone."""

    total: Whole = Field(description="most of all new limits together")
    industries: dict[str, Whole] = Field(default_factory=dict, description="most of an industry")
    regions: dict[str, Whole] = Field(default_factory=dict, description="most of a region")


class ReportConsent(Strict):
    """Says what the portal asks owners' consent to credit reports for: whose sections, and which fields of them."""

    holders: tuple[Name, ...] = Field(min_length=1, max_length=60, description="holders that write sections")
    fields: tuple[str, ...] = Field(
        min_length=1, max_length=200, description="fields (`veilscore section fields`) that they may tell; [all]: each"
    )


class PortalSite(ConsoleConfig):
    """Says where `veilscore bank portal` serves the owners of firms, always over TLS 1.3."""

    port: int = Field(default=7446, ge=0, le=65535, description="port; 0 takes a free one")
    idle_minutes: float = Field(default=15, gt=0, le=60, description="a session ends so long after its last request")
    session_hours: float = Field(default=1, gt=0, le=8, description="and so long after it began, whatever happens")
    issuer: Path | None = Field(
        default=None, description="folder of the consent issuer whose key signs what owners agree to; null: none here"
    )
    bank_name: str = Field(default="", max_length=80, description="name of the bank on its pages; empty: the node's")
    consent_days: dict[Purpose, Annotated[int, Field(ge=1, le=3650)]] = Field(
        default={"application": 30, "renewal": 400, "report": 90},
        description="how long a consent is valid, by purpose",
    )
    report: ReportConsent | None = Field(
        default=None, description="consents to credit reports that the portal asks for; null: none"
    )

    @model_validator(mode="after")
    def _of_owners(self) -> Self:
        if self.client_ca is not None or self.refused or self.oidc is not None:
            raise ValueError("owners enter by links and passkeys: client_ca, refused and oidc are of the console")
        return self

    def below(self, home: Path) -> Self:
        """Return it with relative paths put below a home."""
        paths = {name: getattr(self, name) for name in ("certificate", "key", "issuer")}
        return self.model_copy(update={name: None if p is None else home / p for name, p in paths.items()})


class BankRetention(Strict):
    """Says how long the book names a firm; `veilscore retention run` forgets those whose time is over."""

    lending_years: float = Field(
        default=10,
        ge=0,
        le=100,
        description="after the last contract of a firm ended: records of customers and their business, by the law "
        "against money laundering",
    )
    prospects_days: int = Field(
        default=730, ge=1, description="after the last entry about a firm that was never lent to"
    )


class BankSettings(Strict):
    """Says where the book is, what the bank lends, and within which limits."""

    currency: str = Field(default="CNY", pattern=r"^[A-Z]{3}$", description="of all amounts, three letters")
    book: BookPlace = Field(default=BookPlace(), description="where the book is")
    dataset: Name | None = Field(default=None, description="data set of node.yaml whose row a portrait shows")
    id_normaliser: Literal["uscc", "text"] = Field(default="uscc", description="what kind of id firms have")
    products: dict[Name, Product] = Field(default_factory=dict, description="what the bank lends, by name")
    firm_cap: Whole | None = Field(default=None, description="most that one firm may have over all products")
    budget: Budget | None = Field(default=None, description="of a portfolio of new limits")
    portal: str = Field(
        default="https://bank.example/offer", pattern=r"^https://[^\s#]+$", description="page that a QR code opens"
    )
    portal_site: PortalSite = Field(default=PortalSite(), description="the portal of firms' owners: where it listens")
    decisions: dict[Purpose, Name] = Field(default_factory=dict, description="decision model by purpose")
    bits_per_year: dict[Name, float] = Field(
        default_factory=dict, description="bits of a firm that each holder tells in a year, as its steward said"
    )
    sections: dict[Name, tuple[Name, ...]] = Field(
        default_factory=dict,
        description="catalogues whose fields a holder tells in sections of reports; not named: that of its own name",
    )
    section_data: Name = Field(
        default="main", description="data set of holders of whose variables they write sections, as jobs name it"
    )
    renewals: RenewalRules = Field(default=RenewalRules(), description="when contracts that end are looked at")
    warnings: WarningRules = Field(default=WarningRules(), description="early warnings: levels, label, tables")
    retention: BankRetention = Field(default=BankRetention(), description="how long the book names a firm")

    def product(self, name: str) -> Product:
        """Return a product; ConfigError names those there are."""
        if name not in self.products:
            raise ConfigError(f"no product {name[:60]!r} in {FILE}; it has: {', '.join(self.products) or 'none'}")
        return self.products[name]

    def decision_for(self, purpose: Purpose) -> str:
        """Return the name of the decision model for a purpose; ConfigError where there is none."""
        if purpose not in self.decisions:
            raise ConfigError(f"{FILE} names no decision for {purpose}: write decisions: {{{purpose}: MODEL}}")
        return self.decisions[purpose]

    def book_url(self, home: Path) -> str:
        """Return the URL of the book with its password: do not print or log it."""
        if self.book.url is None:
            return f"sqlite:///{(home / BOOK).absolute()}"
        return database_url(self.book.url, self.book.password_env)


def load_settings(home: Path) -> BankSettings:
    """Return the settings of a home; those of a bank that lends nothing yet where there is no file."""
    path = home / FILE
    return load(BankSettings, path, "bank settings") if path.exists() else BankSettings()


def amount_of(whole: int) -> int:
    """Return an amount of whole units in hundredths."""
    return whole * HUNDREDTHS


def shown_amount(amount: int) -> str:
    """Return an amount of hundredths as people write it: 1,250,000.00."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // HUNDREDTHS:,}.{abs(amount) % HUNDREDTHS:02d}"


def read_amount(text: str) -> int:
    """Return what a person wrote (1250000, 1,250,000.50) in hundredths; ConfigError where it is no amount."""
    whole, _, rest = text.replace(",", "").strip().partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= 13) or not (
        rest == "" or (rest.isascii() and rest.isdigit() and len(rest) <= 2)
    ):
        raise ConfigError(f"{text[:40]!r} is no amount; write it like 250000 or 250000.50")
    return int(whole) * HUNDREDTHS + int(rest.ljust(2, "0"))
