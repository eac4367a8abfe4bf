"""A basis for a proactive campaign: a ground in law, signed by two stewards of a holder, in place of single consents.

It is about one decision of one bank, by its hash, for a population, until a day, within bits a firm. Firms that object
are those that ended every consent at the portal that the basis names: its revocation list reaches every holder by
itself (`release/revocations.py`). Without such a list the basis is not in force, since nobody could have objected.

HOME/consents/bases/BANK/DECISION.json     at the holder, verified again at each use
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from veilscore.arrays import Mask
from veilscore.errors import ConfigError, IdentityError, RefusedError
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.keys.identity import Identity
from veilscore.release.revocations import RevocationLists, speaking
from veilscore.release.scope import BITS_SLACK
from veilscore.terms.federation import Federation
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.parameters import Name
from veilscore.terms.people import STEWARD, roles_of
from veilscore.terms.settings import Strict, load, parse_json, read_text

FOLDER = "consents/bases"
SIGNED_AS = "two-steward basis"
STEWARDS = 2
_Words = Annotated[str, Field(min_length=10, max_length=2000)]


class Basis(Strict):
    """What two stewards answer for: which firms a bank may decide on without their single consents, and why."""

    holder: Name = Field(description="whose data are used, and whose stewards sign")
    bank: Name = Field(description="the bank that decides")
    decision: Name = Field(description="name of the decision, whose purpose is proactive")
    decision_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="its hash (veilscore decision show)")
    legal_ground: _Words = Field(description="the law or contract that allows it, in words")
    population: _Words = Field(description="which firms, in words")
    ends: dt.date = Field(description="last day on which it holds")
    bits: float = Field(gt=0, le=20, description="most bits that the decision may tell of a firm")
    objections: Name = Field(description="consent issuer whose revocation list names the firms that object")

    def canonical(self) -> str:
        """Return what is signed."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class _Form(Strict):
    """A signed basis as its file has it."""

    format: Literal["veilscore-basis/1"] = "veilscore-basis/1"
    basis: Basis
    signatures: dict[Name, Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,80}$")]]


@dataclass(frozen=True)
class SignedBasis:
    """A basis with the signatures of persons, by name; nothing of it is trusted before `verify`."""

    basis: Basis
    signatures: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> SignedBasis:
        """Return the basis of a file: YAML that somebody wrote, or a signed one; ConfigError names the key at fault."""
        if path.suffix != ".json":
            return cls(load(Basis, path, "basis"))
        try:
            form = _Form.model_validate(parse_json(read_text(path, "signed basis")))
        except ValueError as error:
            raise ConfigError(f"{path} is no signed basis: sign one with `veilscore basis sign`") from error
        return cls(form.basis, {name: bytes.fromhex(one) for name, one in form.signatures.items()})

    def signed_by(self, person: Identity) -> SignedBasis:
        """Return it with one signature more."""
        signature = person.sign(self.basis.canonical().encode(), SIGNED_AS)
        return replace(self, signatures={**self.signatures, person.name: signature})

    def write(self, path: Path) -> Path:
        """Write the file, and return it."""
        signatures = {name: one.hex() for name, one in sorted(self.signatures.items())}
        write_text(path, _Form(basis=self.basis, signatures=signatures).model_dump_json(indent=1))
        return path

    def verify(self, node: NodeConfig, federation: Federation) -> Basis:
        """Return the basis if two stewards of this holder signed it; IdentityError or ConfigError otherwise."""
        if self.basis.holder != node.name:
            raise ConfigError(f"the basis is about data of {self.basis.holder}, and this is {node.name}")
        stewards = [name for name in self.signatures if STEWARD in roles_of(node, name)]
        if len(stewards) < STEWARDS:
            raise IdentityError(
                f"a basis needs {STEWARDS} different stewards of {node.name} (people in node.yaml), and "
                f"{len(stewards)} signed it: `veilscore basis sign`"
            )
        for name in stewards:
            member = federation.member(name)
            if member.role != "operator":
                raise IdentityError(f"{name} signed a basis and is no person of the federation", party=name)
            member.identity.verify(self.basis.canonical().encode(), self.signatures[name], SIGNED_AS)
        return self.basis

    def file(self, home: Path, node: NodeConfig, federation: Federation) -> Path:
        """Verify the basis and keep it in a holder's home."""
        basis = self.verify(node, federation)
        if basis.objections not in _speaking(node, basis.bank):
            raise ConfigError(
                f"objections: {basis.objections!r} is no issuer in the policy's consent_issuers, or speaks for other "
                "banks alone (issuer_banks)"
            )
        path = path_of(home, basis.bank, basis.decision)
        private_folder(path.parent)
        return self.write(path)


@dataclass(frozen=True)
class InForce:
    """A basis that holds now, for a holder's gate."""

    basis: Basis
    lists: RevocationLists = field(repr=False)
    speaking: frozenset[str]  # issuers whose withdrawals count for the bank's firms

    def covers(self, ids: NDArray[np.str_]) -> Mask:
        """Return which firms (normalised ids) did not object, (n,)."""
        covered: Mask = ~self.lists.now().by(self.speaking).firms(ids.tolist())
        return covered

    def check(self, decision_sha256: bytes, bits: float) -> None:
        """Refuse another decision than the basis is about, or one that tells more."""
        if decision_sha256.hex() != self.basis.decision_sha256:
            raise RefusedError("the basis that two stewards filed is about another version of the decision")
        if bits > self.basis.bits + BITS_SLACK:
            raise RefusedError(f"the basis allows {self.basis.bits:g} bits, and this decision tells {bits:.3g}")


def path_of(home: Path, bank: str, decision: str) -> Path:
    """Return where a holder keeps the basis of a bank for one of its decisions; both are names of the federation's."""
    return home / FOLDER / bank / f"{decision}.json"


def filed(home: Path) -> tuple[tuple[str, str, SignedBasis | None], ...]:
    """Return bank, decision and basis of all that a holder keeps, whether they hold or not; None for a damaged one."""
    found: list[tuple[str, str, SignedBasis | None]] = []
    for path in sorted((home / FOLDER).glob("*/*.json")):
        read = None
        with contextlib.suppress(ConfigError):
            read = SignedBasis.read(path)
        found.append((path.parent.name, path.stem, read))
    return tuple(found)


def in_force(
    home: Path, node: NodeConfig, federation: Federation, bank: str, decision: str, today: dt.date
) -> InForce | None:
    """Return the basis that a holder has for a bank's decision today; None without one.

    Raises IdentityError or ConfigError where it is damaged, or not signed by two stewards any more.
    """
    path = path_of(home, bank, decision)
    if not path.is_file():
        return None
    basis = SignedBasis.read(path).verify(node, federation)
    if (basis.bank, basis.decision) != (bank, decision) or today > basis.ends:
        return None
    speaking_for = _speaking(node, bank)
    if basis.objections not in speaking_for:
        return None
    lists = RevocationLists(home, dict(node.policy.consent_issuers))
    return InForce(basis, lists, speaking_for) if basis.objections in lists.now().newest else None


def _speaking(node: NodeConfig, bank: str) -> frozenset[str]:
    return speaking(node.policy.consent_issuers, node.policy.issuer_banks, bank)
