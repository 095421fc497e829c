"""Image level: students distilled from teachers, and the two drawing together."""
