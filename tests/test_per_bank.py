"""What a holder keeps in memory for banks is bounded, and one bank's flood costs that bank alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from veilscore.online import stock
from veilscore.online.per_bank import PerBank
from veilscore.online.stock import HolderSpares


def test_the_oldest_of_the_bank_with_most_goes():
    kept = PerBank(4)
    for bank, name in (("quiet", "a"), ("loud", "b"), ("loud", "c"), ("quiet", "d"), ("loud", "e"), ("loud", "f")):
        kept.put(bank, name, name)
    assert kept.counts() == {"quiet": 2, "loud": 2}
    assert [kept.get("loud", name) for name in "bcef"] == [None, None, "e", "f"]
    assert (kept.pop("quiet", "a"), kept.pop("quiet", "a"), len(kept)) == ("a", None, 3)
    kept.put("quiet", "d", "again")
    assert (kept.get("quiet", "d"), len(kept)) == ("again", 3)
    assert (kept.pop("quiet", "d"), kept.get("quiet", "d"), kept.counts()) == ("again", None, {"loud": 2})


def test_it_counts_as_plain_python_does():
    rng, kept, plain = np.random.default_rng(3), PerBank(10), {}
    for _ in range(2000):
        bank, name = f"bank {rng.integers(4)}", f"{rng.integers(12)}"
        if rng.random() < 0.3:
            assert kept.pop(bank, name) == plain.pop((bank, name), None)
        else:
            kept.put(bank, name, 1)
            plain[bank, name] = 1
            plain = {of: 1 for of in plain if kept.get(*of)}
        assert len(kept) == len(plain) == sum(kept.counts().values()) <= 10


def test_a_flood_of_spares_leaves_those_of_another_bank(monkeypatch):
    """Spares went by age alone: whoever made four thousand took away everybody else's."""
    monkeypatch.setattr(stock, "_HELD", 50)
    spares = HolderSpares()
    spares.add("quiet", SimpleNamespace(spare_id="own", part=b"p"))
    for number in range(200):
        spares.add("loud", SimpleNamespace(spare_id=f"s{number}", part=b"p"))
    assert spares.counts() == {"quiet": 1, "loud": 49}
    assert spares.take("quiet", "own", b"other") is None
    assert spares.take("quiet", "own", b"p") is not None
