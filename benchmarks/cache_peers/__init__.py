"""Other prefix caches for the same work, and trees written in Python to compare with."""
