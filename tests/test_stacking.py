"""Stacking on shares: margins, level two and losses against the plaintext, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from random_trees import random_tree
from scipy.optimize import minimize

from veilscore.channel import simulate
from veilscore.errors import DataError, MessageError, ParameterError
from veilscore.fabric.framing import kind_of
from veilscore.modelling import stacked
from veilscore.modelling.loss import for_bound, log_loss, sigmoid
from veilscore.modelling.softplus import softplus_series
from veilscore.modelling.trees import tree_values
from veilscore.protocol import Session, Transcript, decode, encode
from veilscore.protocols import stacking
from veilscore.protocols.stacking import (
    BankStack,
    CellsColumn,
    ClearColumn,
    Gradient,
    HolderStack,
    Limits,
    Losses,
    Moments,
    Scores,
    TreesColumn,
    bank_stack,
    holder_stack,
)
from veilscore.v1 import stacking_pb2 as pb

LIMITS = Limits(moments=5, gradients=200, losses=5, scores=1)
