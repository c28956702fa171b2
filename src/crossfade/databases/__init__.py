"""Adapters of `ports.databases`: PostgreSQL, MySQL and MariaDB, and what lints SQL."""
