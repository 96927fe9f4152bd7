"""What principles share: matched cells, estimates, verdicts, decisions."""
