"""A benchmark's result as one self-contained HTML page."""
