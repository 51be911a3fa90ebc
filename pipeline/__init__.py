"""msgmeter: counts every message exactly once, rates it in credits, and keeps balances that can be explained."""
