"""One module for each family of losses; its first line names the unit."""
