"""What is wrong with a machine: facts that are gathered on it, and what follows from them."""
