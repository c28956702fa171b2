"""The pipeline: four stages that a commit goes through, the gates in them, and what a run of it may do when."""
