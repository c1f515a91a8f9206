"""Properties: what must hold of every input and every order of faults, not of chosen examples."""
