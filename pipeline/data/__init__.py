"""Data the rules read: the prefix table, rate cards and plan presets."""
