"""One suite for each seam, which everything behind that seam passes."""
