"""Training: the loop, and the files that a run reads and writes."""
