"""Schema migrations in phases: operations, what each does to a table, and when the old shape may go."""
