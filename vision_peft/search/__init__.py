"""Choose settings on val: trials over a grid, or where optuna looks next; they train, and never read test."""
