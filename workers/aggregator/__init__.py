"""The aggregator: folds updates as they arrive and makes each round's new model."""
