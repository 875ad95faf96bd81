"""The command line: train, compare, look up and draw losses."""
