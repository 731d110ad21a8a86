"""The Edge TPU as a target: what maps onto it, and its compiler."""
