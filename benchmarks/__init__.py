"""One file a claim: what is measured, against what, and whether the target is met."""
