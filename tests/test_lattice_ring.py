"""Ring: known answers, the negacyclic product against plain integers, the wire format, rounding."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.errors import MessageError, ParameterError
from veilscore.lattice import params
from veilscore.lattice.ring import Ring, pack, primitive_root, ring, ring_of, unpack
from veilscore.lattice.rounding import encode_scaled, exact_scale, round_scaled
from veilscore.lattice.sampling import PublicStream, SecretStream

ROUNDED = (params.LOOKUP_TRAIN, params.LOOKUP_OPEN, params.LOOKUP_TREES)
SETS = (params.HISTOGRAM, params.LOOKUP_TRAIN, params.LOOKUP_OPEN, params.PRODUCT, params.PRODUCT_OPEN)
VECTORS = json.loads((Path(__file__).parent / "vectors" / "lattice.json").read_text())["sets"]
SMALL = params.largest_primes(14, 64, 2)
by_name = pytest.mark.parametrize("parameters", SETS, ids=lambda s: s.name)


def negacyclic(a, b, p):
    N = len(a)
    out = [0] * N
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            sign = 1 if i + j < N else -1
            out[(i + j) % N] += sign * x * y
    return [v % p for v in out]


def sha256(array):
    return hashlib.sha256(array.astype("<u4").tobytes()).hexdigest()


@pytest.mark.parametrize("case", VECTORS, ids=lambda c: c["name"])
def test_known_answers(case):
    parameters = next(s for s in SETS if s.name == case["name"])
    assert (parameters.N, list(parameters.primes)) == (case["N"], case["primes"])
    assert [primitive_root(p, 2 * case["N"]) for p in case["primes"]] == case["psi"]
    a = np.array([[(i * i + 1) % p for i in range(case["N"])] for p in case["primes"]], np.uint32)
    values = ring_of(parameters).ntt(a)
    assert values[:, :4].tolist() == case["ntt_first"]
    assert sha256(values) == case["ntt_sha256"]
    public = PublicStream(b"known answer", b"vector").uniform(a.shape, parameters.primes)
    assert public[:, :4].tolist() == case["xof_first"]
    assert sha256(public) == case["xof_sha256"]
    assert pack(np.array(case["pack_in"], np.uint32), parameters.primes).hex() == case["pack_hex"]


@pytest.mark.parametrize("case", VECTORS, ids=lambda c: c["name"])
def test_known_answers_follow_from_the_definition(case):
    """Horner's rule at psi^(2 brv(i) + 1), in plain integers; and the bytes by int.to_bytes."""
    N, bits = case["N"], case["N"].bit_length() - 1
    for p, psi, first in zip(case["primes"], case["psi"], case["ntt_first"], strict=True):
        for i, expected in enumerate(first):
            point = pow(psi, 2 * int(format(i, f"0{bits}b")[::-1], 2) + 1, p)
            value = 0
            for k in range(N - 1, -1, -1):
                value = (value * point + k * k + 1) % p
            assert value == expected
    widths = [-(-p.bit_length() // 8) for p in case["primes"]]
    plain = b"".join(v.to_bytes(w, "little") for row, w in zip(case["pack_in"], widths, strict=True) for v in row)
    assert plain.hex() == case["pack_hex"]


@by_name
def test_transform_and_back(parameters):
    this = ring_of(parameters)
    a = SecretStream().uniform((3, len(parameters.primes), parameters.N), parameters.primes)
    kept = a.copy()
    values = this.ntt(a)
    assert (a == kept).all()
    assert (values < this.primes_u32[:, None]).all()
    assert (this.intt(values) == a).all()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_product_is_negacyclic(data):
    this = ring(32, SMALL)
    a, b = ([data.draw(st.lists(st.integers(0, p - 1), min_size=32, max_size=32)) for p in SMALL] for _ in range(2))
    values = [this.ntt(np.array(x, np.uint32)) for x in (a, b)]
    product = this.intt(this.multiply(*values))
    assert product.tolist() == [negacyclic(x, y, p) for x, y, p in zip(a, b, SMALL, strict=True)]


@by_name
def test_large_product_at_the_edges(parameters):
    """Largest residues times X^(N-1) and times a ternary polynomial."""
    this = ring_of(parameters)
    N = parameters.N
    top = np.repeat((this.primes_u32 - 1)[:, None], N, axis=1)
    shift = np.zeros(N, np.int8)
    shift[N - 1] = 1
    out = this.intt(this.multiply(this.ntt(top), this.ntt(this.lift(shift))))
    # -1 in every place, times X^(N-1): all but the last coefficient change sign
    assert (out[:, :-1] == 1).all()
    assert (out[:, -1] == this.primes_u32 - 1).all()


@by_name
def test_reversed_values_are_the_mirrored_polynomial(parameters):
    this = ring_of(parameters)
    a = SecretStream().uniform((len(parameters.primes), parameters.N), parameters.primes)
    mirrored = this.intt(np.ascontiguousarray(this.ntt(a)[:, ::-1]))
    assert (mirrored[:, 0] == a[:, 0]).all()
    assert (mirrored[:, 1:] == this.negate(a)[:, :0:-1]).all()


def test_lift_add_negate():
    this = ring(32, SMALL)
    small = np.array([-21, 21, -1, 0] * 8, np.int8)
    lifted = this.lift(small)
    assert (lifted == small.astype(np.int64) % np.array(SMALL)[:, None]).all()
    total = lifted.copy()
    this.add_to(total, this.negate(lifted))
    assert not total.any()
    assert repr(this) == "Ring(N=32, limbs=2)"


def test_no_root_of_unity():
    with pytest.raises(ParameterError, match="no root"):
        Ring(64, (97,))


@by_name
def test_pack_and_unpack(parameters):
    shape = (2, len(parameters.primes), 7)
    limbs = SecretStream().uniform(shape, parameters.primes)
    data = pack(limbs, parameters.primes)
    assert (unpack(data, shape, parameters.primes) == limbs).all()
    for bad in (data[:-1], data + b"\0", b""):
        with pytest.raises(MessageError, match="bytes"):
            unpack(bad, shape, parameters.primes)


@by_name
def test_every_limb_refuses_a_residue_that_is_its_prime(parameters):
    for k, p in enumerate(parameters.primes):
        limbs = np.zeros((len(parameters.primes), 5), np.uint32)
        limbs[k, 4] = p - 1
        unpack(pack(limbs, parameters.primes), limbs.shape, parameters.primes)
        limbs[k, 4] = p
        with pytest.raises(MessageError, match="not below its prime"):
            unpack(pack(limbs, parameters.primes), limbs.shape, parameters.primes)


def test_pack_refuses_the_wrong_number_of_limbs():
    with pytest.raises(ParameterError):
        pack(np.zeros((3, 5), np.uint32), SMALL)
    with pytest.raises(ParameterError):
        unpack(b"", (3, 0), SMALL)


def residues(values, primes):
    return np.array([[v % p for v in values] for p in primes], np.uint32)[None]


def edge_values(parameters):
    """Integers below q, a unit on each side of the rounding boundaries."""
    q, t = parameters.q, parameters.t
    middles = [(2 * k + 1) * q // (2 * t) for k in (0, 1, 12345, t // 2, t - 1)]
    return [v % q for m in middles for v in (m - 2, m - 1, m, m + 1, m + 2)] + [0, 1, q - 1, q // 2, q // 3]


@pytest.mark.parametrize("parameters", [params.HISTOGRAM, params.PRODUCT, params.PRODUCT_OPEN], ids=lambda s: s.name)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_exact_rounding_against_big_integers(parameters, data):
    q, t, D = parameters.q, parameters.t, parameters.delta
    values = [*edge_values(parameters), *data.draw(st.lists(st.integers(0, q - 1), max_size=20))]
    rounded = exact_scale(parameters).round(residues(values, parameters.primes))[0]
    exact = [(2 * v + D) // (2 * D) % t for v in values]
    difference = [(int(r) - e) % t for r, e in zip(rounded, exact, strict=True)]
    # D has an odd product, so only values within 2^-68 D of a boundary may differ, by one unit
    assert set(difference[len(edge_values(parameters)) :]) <= {0}
    assert set(difference) <= {0, 1, t - 1}


@pytest.mark.parametrize("parameters", ROUNDED, ids=lambda s: s.name)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_scaled_rounding_against_big_integers(parameters, data):
    q, t = parameters.q, parameters.t
    values = data.draw(st.lists(st.integers(0, q - 1), min_size=1, max_size=20))
    rounded = round_scaled(residues(values, parameters.primes), parameters)[0]
    assert rounded.tolist() == [(2 * v * t + q) // (2 * q) % t for v in values]


@pytest.mark.parametrize("parameters", ROUNDED, ids=lambda s: s.name)
def test_encoding_then_rounding_is_the_identity(parameters):
    values = np.array([0, 1, 2, parameters.t // 2 - 1, parameters.t // 2, parameters.t - 1], np.uint64)
    encoded = encode_scaled(values, parameters)
    assert (round_scaled(np.ascontiguousarray(encoded.T)[None], parameters)[0] == values).all()


@settings(max_examples=20, deadline=None)
@given(values=st.lists(st.integers(0, params.T - 1), min_size=1, max_size=20))
def test_split_join_and_centred_lift(values):
    scale = exact_scale(params.PRODUCT)
    array = np.array(values, np.uint64)
    parts = scale.split(array)
    assert (scale.join(parts) == array).all()
    centred = [v - params.T if v > params.T // 2 else v for v in values]
    assert (scale.lift_centred(parts[None]) == residues(centred, params.PRODUCT.primes[2:])).all()


def test_exact_scale_needs_t_dividing_q():
    with pytest.raises(ParameterError):
        exact_scale(params.LOOKUP_TRAIN)
