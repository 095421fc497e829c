"""What images are measured with: extractors, distances, and quality for a prompt."""
