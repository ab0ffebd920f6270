"""Which node does what: pure decisions over a `View` of the cluster. Knows nothing of HTTP."""
