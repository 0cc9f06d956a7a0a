"""One format, one file: how data sets are written for other tools, the counterpart of readers."""
