"""The sub-commands that this part brings to the `edgeloc` command; each is one module, light to import."""
