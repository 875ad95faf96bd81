"""The same mathematics across devices."""
