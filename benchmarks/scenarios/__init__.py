"""What `edgeloc bench` measures: one frame after the other, a stream, minutes of work, or the start of a process."""
