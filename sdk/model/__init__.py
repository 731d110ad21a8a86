"""The model file: its contract, its containers, and what can be read out of it without running it."""
