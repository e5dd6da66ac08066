"""The edge: who may ask for what, how much, and in which form it is answered."""
