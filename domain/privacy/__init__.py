"""Privacy: what the village knows of people, and how it forgets them."""
