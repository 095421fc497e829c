"""Choose the right text-to-image model for a dataset, out of a matching graph in Neo4j."""
