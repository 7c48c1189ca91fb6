"""What networks read: sources, and the packed form that all of them end in."""
