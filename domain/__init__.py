"""What is true: pure rules, no web, database, network, tensors, clock or randomness."""
