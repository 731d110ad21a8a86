"""How faithful a quantized model is to its float model: pairing, figures, statistics, layers."""
