"""Methods that train on shards."""
