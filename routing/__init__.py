"""Prompt level: which model, with how many steps, is worth its cost for one prompt."""
