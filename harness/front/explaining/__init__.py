"""What the words of a report mean, and where a check and its numbers are."""
