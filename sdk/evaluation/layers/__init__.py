"""Error of a quantized model tensor by tensor: which layer adds it."""
