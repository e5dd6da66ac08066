"""Federated learning: training sessions, their rounds, and the devices that take part."""
