"""Readers: how one layout lies on disk, one file each; what they share is in `parts` and `rows`."""
