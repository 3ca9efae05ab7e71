"""The task dbbd."""
