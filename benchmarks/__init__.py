"""Programs that measure; `scripts/benchmark` runs them."""
