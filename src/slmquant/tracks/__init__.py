"""What is measured: compression (what was kept), consumption (what it cost), inference (what it takes to run)."""
