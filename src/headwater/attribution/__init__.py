"""The answer: ask in texts, get training rows and words; and the templates that show them."""
