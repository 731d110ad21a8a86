"""The sub-commands of `edgeloc` that belong on the device."""
