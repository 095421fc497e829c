"""Image level: a student distilled from its teacher, and the two drawing together."""
