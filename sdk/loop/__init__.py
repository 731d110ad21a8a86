"""The run loop and its stages: the newest-frame slot, counts and ages, drawing."""
