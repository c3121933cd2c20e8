"""What a training leaves behind: the run folder, the exact state, its files."""
