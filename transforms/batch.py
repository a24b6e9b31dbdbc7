"""A batch: a list that travels through the graph as one element.

Beam's own batched DoFns were tried first. In 2.77 a splittable DoFn can't yield batches (``HomogeneousWindow`` has no
``timestamps``) and tagged outputs have no batch type, so the elements are lists, with a coder of their own: Beam's for a list
pickles each item to estimate its size, which took a tenth of a file's run.
"""

from __future__ import annotations

import pickle
from typing import Any, Final

from apache_beam import coders
from apache_beam.coders.coder_impl import CallbackCoderImpl, CoderImpl

_BYTES_AN_ITEM: Final = 200  # what Beam's size metrics take an item for


class Batch(list[Any]):
    """A list as one element of a PCollection."""


class BatchCoder(coders.Coder):  # type: ignore[misc]
    """Pickles a batch whole, where one must leave its stage at all; estimates its size by its length."""

    def _create_impl(self) -> CoderImpl:
        return CallbackCoderImpl(pickle.dumps, pickle.loads, lambda batch: _BYTES_AN_ITEM * len(batch))

    def is_deterministic(self) -> bool:
        """Whether equal batches have equal bytes: not promised, batches are never keys."""
        return False

    def to_type_hint(self) -> type[Batch]:
        """What it codes."""
        return Batch


coders.registry.register_coder(Batch, BatchCoder)
