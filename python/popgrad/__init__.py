"""popgrad: train neural networks with any optimizer, and compare them honestly."""
