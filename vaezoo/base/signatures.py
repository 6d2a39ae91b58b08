"""The functions of an exported model."""

from collections.abc import Callable
from typing import NamedTuple


class Signature(NamedTuple):
    """One function of an exported model.

    Attributes:
        name: what it is served as.
        function: tensors, in the order of `inputs` -> dict of named tensors.
        inputs: `tf.TensorSpec`s with names.
        saved_model, lite: which of the two exports it belongs to.
    """

    name: str
    function: Callable
    inputs: tuple
    saved_model: bool = True
    lite: bool = True
