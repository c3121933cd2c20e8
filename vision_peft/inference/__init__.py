"""Use what was tuned: load a model that a run or an adapter folder describes."""
