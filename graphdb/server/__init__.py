"""The managed Neo4j: its jars, and the one server of a data folder."""
