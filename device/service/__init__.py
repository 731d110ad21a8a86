"""A run as a systemd service: its unit, its permissions, its watchdog."""
