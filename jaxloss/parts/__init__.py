"""Building blocks of losses that are useful by themselves: distances, pairs, targets."""
