"""A row from outside: what its method may reach, training it beside the check rows, proving it again."""
