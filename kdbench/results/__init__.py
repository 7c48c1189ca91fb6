"""WHAT LIES ON DISK: records of runs, and which of them count today."""
