"""Many runs and what they say together: grids, comparisons, statistics, tables."""
