"""What touches hardware on the device: cameras, and later boards, power, heat, accelerators and services."""
