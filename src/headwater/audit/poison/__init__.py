"""Rows that plant a trigger: words that the gradients give away, and whether they command the model."""
