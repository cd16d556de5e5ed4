"""Where images come from (one source a function), and how they become batches."""

from compress.data.batches import Augment, Batch, plain_batches, training_batches
from compress.data.open import Data, open_data
from compress.data.pool import Pool

__all__ = ["Augment", "Batch", "Data", "Pool", "open_data", "plain_batches", "training_batches"]
