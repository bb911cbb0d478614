"""Client-level differential privacy: clip to a grid, add integer noise, account for it. Knows no wire and no rule."""
