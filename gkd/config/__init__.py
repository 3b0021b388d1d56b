"""From YAML layers to a validated experiment."""
