"""Many comparisons: `plan` lays them out, `worker` runs them in a process of its own, `drive` records what comes."""
