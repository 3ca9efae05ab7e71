"""Run folders: their files, lock, log and history."""
