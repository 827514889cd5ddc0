"""Grading methods by retraining: the same retrains and the same queries for every method."""
