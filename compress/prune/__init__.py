"""Structured pruning: which channels matter (importance), and how to land on a budget (pruner)."""

from compress.prune.importance import IMPORTANCES
from compress.prune.pruner import least, prune

__all__ = ["IMPORTANCES", "least", "prune"]
