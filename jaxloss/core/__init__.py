"""What every loss is made of: the first line, the last line, and numbers right at the edges."""
