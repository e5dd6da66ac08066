"""Device registry: which devices there are, what they can do, whether they are there, and how far they are trusted."""
