"""The stages: each takes what the one before it leaves in the catalog."""
