"""Statistics that several levels need: intervals and paired tests."""
