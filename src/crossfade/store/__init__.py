"""What is kept: the ledger, artifacts, secrets."""
