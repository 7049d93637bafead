"""Honest comparison of optimizers: one budget, fixed splits, several seeds, one report."""
