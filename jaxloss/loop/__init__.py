"""The side of the host: batches in, metrics and checkpoints out."""
