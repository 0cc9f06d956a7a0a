"""Files that a crash cannot leave half written, and whose every byte is under a hash."""
