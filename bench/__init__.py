"""The benches: each is one command, runs our part and its peers side by side, and prints a table."""
