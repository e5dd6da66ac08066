"""Lending idle compute under a safety policy: what is allowed, what is measured, and what time counts."""
