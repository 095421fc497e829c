"""Image level: a student draws, and a teacher where it must; and what both are steered by."""
