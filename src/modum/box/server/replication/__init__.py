"""Memory servers that stand in for each other: docs/how-to/replicas.md."""
