"""Sampling: distributions at fixed thresholds, domain separation, no copies."""

from __future__ import annotations

import copy
import math
import os
import pickle

import numpy as np
import pytest
from scipy import stats

from veilscore.errors import ParameterError, SecretReuseError
from veilscore.lattice import params, sampling
from veilscore.lattice.sampling import PublicStream, SecretStream

PRIMES = params.HISTOGRAM.primes
COUNT = 1 << 18
Z = 6.0  # two-sided 6 sd: a sound sampler fails once in 5e8 runs


def test_noise_is_centred_binomial():
    noise = SecretStream().noise((COUNT,)).astype(np.float64)
    sd = params.NOISE_SD
    assert abs(noise.mean()) < Z * sd / math.sqrt(COUNT)
    # Var of the sample variance of a near-Gaussian
    assert abs(noise.var() - sd**2) < Z * sd**2 * math.sqrt(2 / COUNT)
    assert np.abs(noise).max() <= params.NOISE_ETA
    values = np.arange(-8, 9)
    expected = stats.binom(42, 0.5).pmf(values + 21) * COUNT
    observed = np.array([(noise == v).sum() for v in values])
    assert (np.abs(observed - expected) < Z * np.sqrt(expected)).all()


def test_ternary_is_uniform():
    ternary = SecretStream().ternary((2, COUNT // 2))
    observed = np.array([(ternary == v).sum() for v in (-1, 0, 1)])
    assert observed.sum() == COUNT
    assert (np.abs(observed - COUNT / 3) < Z * math.sqrt(COUNT * 2 / 9)).all()


@pytest.mark.parametrize("primes", [PRIMES, (8380417, 12289)], ids=["near a power of two", "far from one"])
def test_uniform_residues(primes):
    limbs = SecretStream().uniform((len(primes), 1 << 16), primes)
    for limb, p in zip(limbs, primes, strict=True):
        assert limb.max() < p
        observed = np.bincount((limb.astype(np.uint64) * 64 // p).astype(np.int64), minlength=64)
        chi2 = ((observed - limb.size / 64) ** 2 / (limb.size / 64)).sum()
        assert chi2 < 63 + Z * math.sqrt(2 * 63) + Z**2


def test_gaussian_and_dither():
    noise = SecretStream().gaussian((COUNT,), params.DITHER_SD).astype(np.float64)
    assert abs(noise.mean()) < Z * params.DITHER_SD / math.sqrt(COUNT)
    assert abs(noise.var() / params.DITHER_SD**2 - 1) < Z * math.sqrt(2 / COUNT)
    assert abs(stats.kurtosis(noise)) < Z * math.sqrt(24 / COUNT)
    residues = sampling.dither((3, 100))
    assert residues.dtype == np.uint64
    centred = np.where(residues > params.T // 2, residues.astype(np.int64) - params.T, residues.astype(np.int64))
    assert residues.max() < params.T
    assert 0 < np.abs(centred).max() < 9 * params.DITHER_SD


def test_words_across_chunks_are_one_stream():
    """Drawing at once or in parts gives the same key stream, with nothing repeated."""
    count = 3 * (1 << 16) + 5
    whole = PublicStream(b"label", b"purpose").words(count)
    stream = PublicStream(b"label", b"purpose")
    parts = np.concatenate([stream.words(k) for k in (2, 1 << 16, count - (1 << 16) - 2)])
    assert (whole == parts).all()
    assert np.unique(whole).size == count


def test_secret_streams_differ():
    assert (SecretStream().words(8) != SecretStream().words(8)).all()


def test_public_elements_are_separated_by_label_and_purpose():
    pairs = [(b"ab", b"c"), (b"a", b"bc"), (b"abc", b""), (b"ab", b"d")]
    drawn = {PublicStream(*pair).words(4).tobytes() for pair in pairs}
    assert len(drawn) == len(pairs)
    assert PublicStream(b"ab", b"c").words(4).tobytes() in drawn
    with pytest.raises(ParameterError, match="label"):
        PublicStream(b"", b"c")


def test_streams_cannot_be_copied_or_seen():
    stream = SecretStream()
    for carry in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(SecretReuseError):
            carry(stream)
    assert repr(stream) == "<SecretStream>"


def test_streams_do_not_survive_a_fork(monkeypatch):
    stream = SecretStream()
    parent = os.getpid()
    monkeypatch.setattr(sampling, "process_id", lambda: parent + 1)
    with pytest.raises(SecretReuseError, match="process"):
        stream.words(1)


def test_shape_must_match_the_primes():
    with pytest.raises(ParameterError):
        SecretStream().uniform((3, 8), PRIMES)
