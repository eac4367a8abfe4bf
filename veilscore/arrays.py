"""Names of the arrays that every file speaks of; shapes stand where an array is described.

Integers and masks are numpy's; Words hold residues of a ring or share, always as uint64 below their modulus.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Vector: TypeAlias = NDArray[np.float64]
Words: TypeAlias = NDArray[np.uint64]
CodeArray: TypeAlias = NDArray[np.unsignedinteger]
Mask: TypeAlias = NDArray[np.bool_]
Integers: TypeAlias = NDArray[np.int64]
Limbs: TypeAlias = NDArray[np.uint32]
