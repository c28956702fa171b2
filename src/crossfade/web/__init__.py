"""The dashboard: pages for people, rendered here."""
