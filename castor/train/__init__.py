"""How weights are learned: the one loop, its optimizers and its objective."""
