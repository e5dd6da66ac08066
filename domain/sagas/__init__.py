"""Sagas: the only place where contexts meet to act."""
