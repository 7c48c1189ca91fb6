"""WHAT A JOB DOES: one function a rule of the workflow."""
