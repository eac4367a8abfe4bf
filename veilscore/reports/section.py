"""A holder's section of a credit report: codes of published bins of one firm, signed by the holder's own key.

It has no free text: a bank shows what the codes mean by its own copy of the published fields, so that nothing a holder
writes can be read as words of the bank's report.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, ValidationError, model_validator

from veilscore.errors import ConfigError, IdentityError, SchemaError
from veilscore.files.store import write_text
from veilscore.keys.identity import Identity
from veilscore.release.scope import MOST_FIELDS
from veilscore.reports.facts import Fact, FactName, Source
from veilscore.reports.section_fields import SectionFields, section_fields
from veilscore.terms.federation import Federation
from veilscore.terms.parameters import Name
from veilscore.terms.settings import Strict, parse_json, read_text

SIGNED_AS = "section of a credit report"
MOST_BYTES = 1 << 16


def period_of(day: dt.date) -> str:
    """Return the quarter of a day, such as 2026Q4: within one, a section is written once."""
    return f"{day.year:04d}Q{(day.month + 2) // 3}"


class ToldCode(Strict):
    """The number of a bin or level, None where it is not known, as of a day."""

    code: Annotated[StrictInt, Field(ge=0, le=1000)] | None
    as_of: dt.date


class HolderSection(Strict):
    """What a holder tells a bank of one firm.

    told : by field; period : in which it was written; fields_sha256 : version of the published fields.
    """

    format: Literal["veilscore-section/1"] = "veilscore-section/1"
    holder: Name
    bank: Name
    firm: str = Field(min_length=1, max_length=64)
    catalogue: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    consent: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    period: Annotated[str, Field(pattern=r"^[0-9]{4}Q[1-4]$")]
    fields_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    told: dict[FactName, ToldCode] = Field(min_length=1, max_length=MOST_FIELDS)

    @model_validator(mode="after")
    def _before_it_was_written(self) -> Self:
        if any(period_of(one.as_of) > self.period for one in self.told.values()):
            raise ValueError("a section is of days before the end of its period")
        return self

    def canonical(self) -> bytes:
        """Return what is signed."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def sha256(self) -> str:
        """Name of it: SHA-256 of what is signed."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def facts(self, published: SectionFields | None = None) -> tuple[Fact, ...]:
        """Return what it says as facts; SchemaError where it has a field or code that is not published."""
        known = published or section_fields()
        if self.fields_sha256 != known.sha256:
            raise SchemaError(
                f"the section of {self.holder} was written by another version of the published fields: both parties "
                "need the same version of Veilscore"
            )
        found = []
        for name, one in self.told.items():
            field = known.of_catalogue(self.catalogue).get(name)
            if field is None or (one.code is not None and one.code >= field.n_codes):
                raise SchemaError(f"the section of {self.holder} has {name!r} with a value that is not published")
            if one.code is not None:
                found.append(
                    Fact(
                        name=name,
                        firm=self.firm,
                        value=field.value_of(one.code),
                        unit=field.unit,
                        as_of=one.as_of,
                        owner=self.holder,
                        source=Source(
                            kind="signature", reference=f"section {self.sha256[:16]} signed by {self.holder}"
                        ),
                        days=field.days,
                    )
                )
        return tuple(found)


class _Form(Strict):
    """A signed section as its file has it."""

    section: HolderSection
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,80}$")]


@dataclass(frozen=True)
class SignedSection:
    """A section with its holder's signature; nothing of it is trusted before `verify`."""

    section: HolderSection
    signature: bytes

    @classmethod
    def sign(cls, section: HolderSection, identity: Identity) -> Self:
        """Sign a section with the holder's own key."""
        return cls(section, identity.sign(section.canonical(), SIGNED_AS))

    @classmethod
    def from_text(cls, text: str, source: str) -> Self:
        """Return the section of a text; ConfigError for any other text."""
        try:
            form = _Form.model_validate_json(json.dumps(parse_json(text[:MOST_BYTES])))
        except (ValueError, ValidationError) as error:
            raise ConfigError(f"{source} is no section of a credit report, or was damaged") from error
        return cls(form.section, bytes.fromhex(form.signature))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the section of a file."""
        return cls.from_text(read_text(path, "section of a credit report"), str(path))

    def to_text(self) -> str:
        """Return it as the text of a file."""
        return _Form(section=self.section, signature=self.signature.hex()).model_dump_json(indent=1)

    def write(self, path: Path) -> Path:
        """Write the file, and return it."""
        write_text(path, self.to_text())
        return path

    def verify(self, federation: Federation, now_s: float | None = None) -> HolderSection:
        """Return the section if a key of the holder that it names, accepted now, signed it; IdentityError else."""
        member = federation.member(self.section.holder)
        if member.role != "holder":
            raise IdentityError(f"{member.name} is no holder of the federation and signs no section", party=member.name)
        federation.keys_of(member.name, now_s).verify(self.section.canonical(), self.signature, SIGNED_AS)
        return self.section
