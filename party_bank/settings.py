"""The bank's own settings: HOME/bank.yaml says where its book is, what it lends, and within which limits.

Amounts in the file are in whole units of the currency; in the book they are in hundredths.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from veilscore.errors import ConfigError
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


class Budget(Strict):
    """Bounds what is lent in new limits at one time; what is not named is bounded by the total alone."""

    total: Whole = Field(description="most of all new limits together")
    industries: dict[str, Whole] = Field(default_factory=dict, description="most of an industry")
    regions: dict[str, Whole] = Field(default_factory=dict, description="most of a region")


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
    decisions: dict[Purpose, Name] = Field(default_factory=dict, description="decision model by purpose")
    bits_per_year: dict[Name, float] = Field(
        default_factory=dict, description="bits of a firm that each holder tells in a year, as its steward said"
    )
    renewals: RenewalRules = Field(default=RenewalRules(), description="when contracts that end are looked at")

    def product(self, name: str) -> Product:
        """Return a product; ConfigError names those there are."""
        if name not in self.products:
            raise ConfigError(f"no product {name[:60]!r} in {FILE}; it has: {', '.join(self.products) or 'none'}")
        return self.products[name]

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
