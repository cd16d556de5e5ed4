"""Structured pruning: which channels matter (importance), and how to land on a budget (pruner)."""
