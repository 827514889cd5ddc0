"""Headwater: from a prediction to the training examples, and the words in them, that taught it."""
