"""This machine as a node of a cluster. Only `host` and `routes` are imported before there is a cluster."""
