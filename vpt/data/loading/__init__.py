"""From splits to batches: decoding, worker processes, scans, decoded images that are kept."""
