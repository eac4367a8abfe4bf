"""Adds Laplace noise to one number through OpenDP, which no other module imports.

Source: Dwork, McSherry, Nissim, Smith 2006; sampled by OpenDP, whose sampler is safe against attacks on floating point.
Gives: epsilon-differential privacy for the number, if one firm changes it by at most the sensitivity after it was cut
to [lower, upper]. With the default sensitivity, upper - lower, that holds whatever the code computed.
"""

from __future__ import annotations

from typing import Any

from veilscore.errors import SandboxError
from veilscore.sandbox.submission import Noise

INSTALL = "pip install 'veilscore[dp]'"


def laplace(value: float, noise: Noise) -> float:
    """Return `value` cut to the bounds, with noise of scale sensitivity / epsilon; SandboxError without OpenDP."""
    dp = _opendp()
    width = noise.sensitivity if noise.sensitivity is not None else noise.upper - noise.lower
    mechanism = dp.m.make_laplace(
        dp.atom_domain(T=float, nan=False), dp.absolute_distance(T=float), scale=width / noise.epsilon
    )
    return float(mechanism(min(max(value, noise.lower), noise.upper)))


def _opendp() -> Any:
    try:
        import opendp.prelude as dp  # noqa: PLC0415 - large, only where noise is asked for
    except ImportError as error:
        raise SandboxError(f"an output asks for differential privacy and OpenDP is not here: {INSTALL}") from error
    dp.enable_features("contrib")
    return dp
