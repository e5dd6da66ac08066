"""Tokenomics: wallets, transfers and rewards, exact to the grain."""
