"""Statistics that every level needs: intervals, resampling and paired tests."""
