"""Early stopping: cells answer no more items once their ranking is decided (`--until-separated`)."""
