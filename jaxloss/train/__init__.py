"""From a loss to an update: what is compiled."""
