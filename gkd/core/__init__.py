"""The field's nouns: label spaces, networks and their features, batches, errors."""
