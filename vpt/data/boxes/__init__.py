"""Images with boxes: their splits, and what is found wrong with annotations."""
