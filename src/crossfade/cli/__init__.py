"""The command line. It talks to the API and shows what it says."""
