"""Models: the paper's convnet, and the one way in which weights and tokenizers are loaded."""
