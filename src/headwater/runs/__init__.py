"""Runs: what was trained. Corpus, task, ordered checkpoints with their weights, and the recipe."""
