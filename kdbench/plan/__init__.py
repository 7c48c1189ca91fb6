"""THE QUESTION: a YAML, checked, and the jobs and runs that it makes. Imports nothing heavy."""
